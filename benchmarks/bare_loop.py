"""The bare side of benchmarks.training: PyTorch, one model, all images in memory, nothing else.

Run by it as `python -m benchmarks.bare_loop FOLDER THREADS`. A line of row numbers on standard
input is one batch; the seconds that it took are the answer. At the end of the input the weights
are written to FOLDER.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from torch.nn import functional as F


def main() -> None:
    """Train on the batches that the other side names."""
    folder = Path(sys.argv[1])
    torch.set_num_threads(int(sys.argv[2]))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # Written a moment ago by the process that starts this one.
    content = torch.load(folder / "start.pt", weights_only=False)
    network = content["network"].to(device).train()
    images = content["images"].to(device).contiguous(memory_format=torch.channels_last)
    labels = content["labels"].to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)
    print("ready", flush=True)
    for line in sys.stdin:
        rows = torch.tensor([int(row) for row in line.split()], device=device)
        began = _now()
        loss = F.cross_entropy(network(images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(_now() - began, flush=True)
    torch.save(network.state_dict(), folder / "end.pt")


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
