"""Reads a safetensors file and prints each tensor as a line of JSON: name, dtype, shape, and its bytes in hex.

By the safetensors package where it is installed, else by the format's page: what reads here shares no code with what wrote."""

import json
import struct
import sys

content = open(sys.argv[1], "rb").read()
try:
    from safetensors import deserialize

    print("package")
    tensors = [(name, t["dtype"], t["shape"], bytes(t["data"])) for name, t in deserialize(content)]
except ImportError:
    print("page")
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    assert content[8:9] == b"{" and length % 8 == 0
    tensors = [
        (name, t["dtype"], t["shape"], data[slice(*t["data_offsets"])])
        for name, t in header.items()
        if name != "__metadata__"
    ]
for name, dtype, shape, data in sorted(tensors):
    print(json.dumps([name, dtype, shape, data.hex()]))
