"""What the processor can do, and its vector instructions: LLVM intrinsics, exp and sums, matrix-vector products."""
