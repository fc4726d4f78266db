// SPDX-License-Identifier: Apache-2.0
// What llama.cpp makes of GGUF files, for gguf_llama_cpp.py: node gguf_llama_cpp.mjs NODE_FOLDER JOBS.json ANSWERS.json
//
// A job is {file, texts, chats, prompts, rows, new, logits}. Its answer has the ids of each text (special tokens read as
// such), each chat as llama.cpp's own Jinja renders it, the greedy tokens behind each prompt, and the special ids;
// logits of every token of every row go to the file `logits`, float32, row by row.

import {createRequire} from "node:module";
import {readFileSync, writeFileSync} from "node:fs";
import {pathToFileURL} from "node:url";

const [folder, jobsFile, answersFile] = process.argv.slice(2);
const place = createRequire(`${folder}/`).resolve("node-llama-cpp");
const {getLlama, LlamaLogLevel} = await import(pathToFileURL(place).href);

const llama = await getLlama({gpu: false, build: "never", skipDownload: true, maxThreads: 1, logLevel: LlamaLogLevel.error});

async function answer(job) {
    const model = await llama.loadModel({modelPath: job.file});
    const found = {special: special(model), texts: job.texts.map((text) => [...model.tokenize(text, true)])};
    found.chats = job.chats.map((chat) => rendered(chat));
    const context = await model.createContext({
        contextSize: job.context, batchSize: job.context, threads: 1, flashAttention: false,
        experimentalKvCacheKeyType: "F32", experimentalKvCacheValueType: "F32"
    });
    const sequence = context.getSequence();
    found.replies = [];
    for (const prompt of job.prompts) {
        await sequence.clearHistory();
        const reply = [];
        for await (const token of sequence.evaluate(prompt, {temperature: 0, yieldEogToken: true})) {
            reply.push(token);
            if (reply.length >= job.new || model.isEogToken(token))
                break;
        }
        found.replies.push(reply);
    }
    const logits = [];
    for (const row of job.rows) {
        await sequence.clearHistory();
        const input = row.map((token) => [token, {generateNext: {logits: true}}]);
        for (const one of await sequence.controlledEvaluate(input)) {
            const line = new Float32Array(job.words);
            for (const [token, value] of one.next.logits)
                line[token] = value;
            logits.push(Buffer.from(line.buffer));
        }
    }
    if (job.rows.length > 0)
        writeFileSync(job.logits, Buffer.concat(logits));
    await context.dispose();
    await model.dispose();
    return found;
}

function special(model) {
    const {bos, eos, eot, shouldPrependBosToken} = model.tokens;
    const ends = [...model.iterateAllTokens()].filter((token) => model.isEogToken(token));
    return {bos, eos, eot, add_bos: shouldPrependBosToken, ends};
}

function rendered({template, values}) {
    try {
        return new llama._bindings.AddonJinjaRenderer(template).render(values);
    } catch (error) {
        return `! ${error.message}`;
    }
}

const answers = [];
for (const job of JSON.parse(readFileSync(jobsFile, "utf8")))
    answers.push(await answer(job).catch((error) => ({error: error.message})));
writeFileSync(answersFile, JSON.stringify({release: llama.llamaCppRelease, answers}));
process.exit(0);
