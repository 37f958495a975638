"""The texts of the bundle: its README, and configurations for DeepStream and Triton."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from facefoundry.devices import DeviceSpec


def readme(device: DeviceSpec, calibration: int, golden: int) -> str:
    able = " and ".join(n for n, b in (("FP16", device.fp16), ("INT8", device.int8)) if b)
    dla = "\n`--dla` builds for the DLA (TensorRT 8 only, batch 1)." if device.dla else ""
    return f"""# Face embedder for {device.name}

Made for {device.name} (SM{device.sm}): JetPack {device.jetpack}, TensorRT {device.tensorrt}.
Nothing here has run on that device yet. This is how to do so, on the device:

    python3 build.py

It needs numpy and JetPack's `tensorrt` module, or `trtexec`. It checks every file, builds {able}
engines, embeds the golden crops and compares the result with the embeddings that were shipped
(mean cosine at least 0.999 in FP16, 0.99 in INT8), measures latency, and writes `report.json`.
An engine serves only the device model and the TensorRT version that built it: run it again after
an upgrade. `timing.cache` makes the second build faster.{dla}

| file | what it is |
| --- | --- |
| `*.onnx` | the model in FP32, FP16 and INT8 (Q/DQ), preprocessing and L2 norm inside |
| `calibration.npy` | {calibration} aligned crops, uint8 RGB, for TensorRT 8's own calibration |
| `golden.npz` | {golden} aligned crops and their FP32 embeddings |
| `bundle.json` | versions, the device, sha256 of each file |
| `build.py`, `tensorrt_api.py` | the script above |
| `deepstream.txt` | DeepStream `nvinfer` configuration |
| `triton/` | a Triton model repository (ONNX Runtime backend) |

The model's input is `input` [N, 3, 112, 112] float32 RGB 0..255: a face aligned by five landmarks
to the ArcFace template. Its output is `embedding` [N, D] of unit length; the dot product of two is
their similarity. An unaligned crop gives poor embeddings without any error.
"""


def deepstream_config(names: Mapping[str, str], device: DeviceSpec, max_batch: int) -> str:
    """A secondary `nvinfer` that attaches the raw embedding to each detected face."""
    precision, mode = ("fp16", 2) if device.fp16 else ("fp32", 0)
    return f"""# gst-nvinfer, secondary: attaches the embedding to each face of detector 1.
# The faces must reach it aligned to 112x112 (by nvdspreprocess with a custom library, say);
# nvinfer itself only scales the detector's box, which costs accuracy. Not run by the exporter.
[property]
gpu-id=0
onnx-file={names["fp32"]}
model-engine-file=student.{precision}.engine
# Pixels go in as they are: mean and scale are inside the graph.
net-scale-factor=1.0
offsets=0;0;0
# RGB
model-color-format=0
infer-dims=3;112;112
batch-size={max_batch}
# 0 FP32, 1 INT8, 2 FP16
network-mode={mode}
# 100: no post-processing, the output tensor is passed on
network-type=100
output-tensor-meta=1
output-blob-names=embedding
process-mode=2
operate-on-gie-id=1
gie-unique-id=2
maintain-aspect-ratio=0
"""


def triton_config(size: int, max_batch: int) -> str:
    """`config.pbtxt` for the ONNX Runtime backend."""
    return f"""name: "face_embedder"
platform: "onnxruntime_onnx"
max_batch_size: {max_batch}
input [
  {{ name: "input" data_type: TYPE_FP32 dims: [ 3, 112, 112 ] }}
]
output [
  {{ name: "embedding" data_type: TYPE_FP32 dims: [ {size} ] }}
]
dynamic_batching {{ max_queue_delay_microseconds: 1000 }}
"""
