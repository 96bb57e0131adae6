"""STG-CMA: cross-modal adapters that let a frozen image transformer see and hear.

The method as a plain PyTorch library: tensors in, tensors out. It imports torch, timm, open_clip and safetensors
(pyarrow in ``stgcma.data`` only) and knows nothing of Ray, MLflow, S3 or the command line.
"""

__version__ = "0.1.0"
