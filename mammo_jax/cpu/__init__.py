"""What only a CPU needs: kernels and memory."""
