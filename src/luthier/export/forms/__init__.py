# SPDX-License-Identifier: Apache-2.0
"""What a trained model can be written as, one file a form: `luthier export RUN --to NAME`."""
