"""FlashAttention as Triton kernels, under Triton's interpreter where there is no GPU.

pip install -c constraints.txt -e '.[test,triton]'
TRITON_INTERPRET=1 pytest --impl spec.peers.triton --item flash-attention
"""
