"""The ops in Triton: float32, bfloat16 and float16, on NVIDIA GPUs of compute capability 8.0 and later.

Each module has the kernels of one op and a function with the arguments of `dynfocus_native::<op>`. Imported only when
the backend is chosen: it imports triton. With TRITON_INTERPRET=1 in the environment the kernels run on CPU tensors, in
Triton's interpreter.
"""
