"""Kernels for CPUs; every other platform compiles JAX's own operations.

Networks use two functions, which choose for themselves:
`mammo_jax.cpu.convolution.convolve` and `mammo_jax.cpu.pooling.max_pool`.

| part | where | what it buys |
|---|---|---|
| `onednn`, called through `foreign` | AVX-512, and installed | convolutions of a step \
at 80 % to 83 % of the speed of the best matrix product in float32, 37 % to 54 % in \
bfloat16 (`docs/cpu_profile.md`); XLA's kernels reach two thirds of oneDNN's speed in \
float32 and a tenth of it in bfloat16 with matrix units |
| `xla_convolution` | other CPUs, meshes, exports | without AVX-512 training is a \
seventh faster than with oneDNN; gradients of 3x3 kernels in a loop over microbatches, \
which XLA alone runs at a fiftieth of the speed |
| `pooling` | every CPU | a gradient without a search through one window after the \
other |

oneDNN is optional: where the package is missing, or jaxlib calls functions in another
way than `foreign` knows, XLA convolves, and the log says so.
"""
