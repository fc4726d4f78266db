// SPDX-License-Identifier: Apache-2.0
// The tensors of a run in one stretch of addresses: each takes the lowest gap that holds it.
//
// A step takes its activations one above the other and gives them back from above, so the lowest gap leaves next to
// none between them, however the sizes change from step to step. Pages stay with the process until they are asked for.

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <iterator>
#include <map>
#include <mutex>
#include <unordered_map>

namespace {

constexpr size_t LINE = 64;      // bytes; what PyTorch aligns its own to
constexpr size_t SMALL = 65536;  // smaller ones are the C library's: they are many, and little together

size_t whole(size_t bytes, size_t of) { return (bytes + of - 1) / of * of; }

struct Arena final : c10::Allocator {
    char *low = nullptr, *high = nullptr;
    c10::Allocator *other = nullptr;  // whose place this one has taken
    int users = 0;
    std::mutex changing;  // users, and whose turn it is
    size_t used = 0, most = 0;
    std::map<char *, size_t> gaps;  // by address; no two touch
    std::unordered_map<char *, size_t> taken;
    std::mutex lock;

    bool owns(const void *place) const { return place >= low && place < high; }

    c10::DataPtr allocate(size_t bytes) override {
        char *place = bytes < SMALL ? nullptr : take(whole(bytes, LINE));
        if (!place) return other->allocate(bytes);  // what no gap holds as well: its error is PyTorch's own
        c10::profiledCPUMemoryReporter().New(place, bytes);
        return {place, place, &give, c10::Device(c10::DeviceType::CPU)};
    }
    c10::DeleterFnPtr raw_deleter() const override { return &give; }
    void copy_data(void *to, const void *from, size_t bytes) const override { default_copy_data(to, from, bytes); }
    static void give(void *place);

    char *take(size_t bytes) {
        std::lock_guard<std::mutex> held(lock);
        for (auto gap = gaps.begin(); gap != gaps.end(); ++gap) {
            if (gap->second < bytes) continue;
            char *place = gap->first;
            const size_t left = gap->second - bytes;
            gaps.erase(gap);
            if (left) gaps.emplace(place + bytes, left);
            taken.emplace(place, bytes);
            used += bytes;
            if (used > most) most = used;
            return place;
        }
        return nullptr;
    }

    void put(char *place) {
        std::lock_guard<std::mutex> held(lock);
        const auto found = taken.find(place);
        size_t bytes = found->second;
        used -= bytes;
        taken.erase(found);
        auto after = gaps.lower_bound(place);
        if (after != gaps.begin()) {
            const auto before = std::prev(after);
            if (before->first + before->second == place) {
                place = before->first;
                bytes += before->second;
                gaps.erase(before);
            }
        }
        if (after != gaps.end() && place + bytes == after->first) {
            bytes += after->second;
            gaps.erase(after);
        }
        gaps.emplace(place, bytes);
    }

    // The whole pages of all gaps go back to the system; zeros stand there when they are taken again.
    void release() {
        std::lock_guard<std::mutex> held(lock);
        const size_t page = (size_t)sysconf(_SC_PAGESIZE);
        for (const auto &[place, bytes] : gaps) {
            char *first = low + whole(place - low, page), *last = low + (place + bytes - low) / page * page;
            if (first < last) madvise(first, last - first, MADV_DONTNEED);
        }
    }
};

Arena *arena = nullptr;  // never deleted: tensors may outlive everything

void Arena::give(void *place) {
    if (!arena->owns(place)) return arena->other->raw_deallocate(place);
    c10::profiledCPUMemoryReporter().Delete(place);
    arena->put(static_cast<char *>(place));
}

}  // namespace

extern "C" {

// Addresses as large as the machine's memory, once; 0 where the system gives none.
int arena_open() {
    static std::mutex once;
    std::lock_guard<std::mutex> held(once);
    if (arena) return 1;
    const size_t bytes = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
    void *got = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (got == MAP_FAILED) return 0;
    arena = new Arena();
    arena->low = static_cast<char *>(got);
    arena->high = arena->low + bytes;
    arena->gaps.emplace(arena->low, bytes);
    arena->other = c10::GetCPUAllocator();
    // a forked child has this thread alone: another one's lock would never be let go
    pthread_atfork([] { arena->lock.lock(); }, [] { arena->lock.unlock(); }, [] { arena->lock.unlock(); });
    return 1;
}

// PyTorch takes large tensors from here, until as many have left as came.
void arena_enter() {
    std::lock_guard<std::mutex> held(arena->changing);
    if (arena->users++) return;
    arena->other = c10::GetCPUAllocator();
    c10::SetCPUAllocator(arena, 1);
}

void arena_leave() {
    std::lock_guard<std::mutex> held(arena->changing);
    if (--arena->users) return;
    if (c10::GetCPUAllocator() == arena) c10::SetCPUAllocator(arena->other, 1);
    arena->release();
}

void arena_release() {
    arena->release();
    arena->most = arena->used;
}
size_t arena_used() { return arena->used; }
size_t arena_most() { return arena->most; }
}
