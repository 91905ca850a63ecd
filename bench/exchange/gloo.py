"""One member of an all-reduce by PyTorch's gloo: answers its parent's requests, one JSON line each. See Member.ts and Pattern.ts."""
import json
import os
import sys
import time

os.environ["GLOO_SOCKET_IFNAME"] = "lo"
import torch
import torch.distributed as dist

PERIOD = 1021


def value(rank, step, elements):
    period = ((torch.arange(PERIOD) * 31 + rank * 17 + step * 7) % PERIOD - 510).to(torch.float32) / 64
    return period.repeat(-(-elements // PERIOD))[:elements]


def reduce(tensors):
    for tensor in tensors:
        dist.all_reduce(tensor)


setting = None
tensors = []


def handle(request):
    global setting, tensors
    kind = request["kind"]
    if kind == "name":
        return str(os.getpid())
    if kind == "accept":
        dist.init_process_group("gloo", **json.loads(request["offer"]))
    elif kind == "prepare":
        setting = request["setting"]
        steps = range(setting["steps"])
        size = setting["elements"]
        # Kept from one measurement to the next: memory that has been touched before.
        if len(tensors) != len(steps) or len(tensors[0]) != size:
            tensors = [torch.empty(size) for _ in steps]
        for step in steps:
            tensors[step].copy_(value(setting["rank"], step, size))
    elif kind == "reduce":
        reduce(tensors[:1])
        cpu, started = time.process_time(), time.perf_counter()
        reduce(tensors[1:])
        return {"seconds": time.perf_counter() - started, "cpuSeconds": time.process_time() - cpu}
    elif kind == "check":
        for step, tensor in enumerate(tensors):
            expected = sum(value(rank, step, setting["elements"]) for rank in range(len(setting["members"])))
            wrong = (tensor != expected).nonzero()
            if len(wrong) > 0:
                raise ValueError(f"element {wrong[0].item()} of step {step} is wrong")
    else:
        raise ValueError(f"no request {kind}")


for line in sys.stdin:
    try:
        answer = {"value": handle(json.loads(line))}
    except Exception as error:
        answer = {"error": f"gloo: {error!r}"}
    print(json.dumps(answer), flush=True)
