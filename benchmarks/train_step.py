"""One training step at full size against the original project's recipe: `python benchmarks/train_step.py`.

Both train the same random weights of the published size on 8 clips of 3.75 s with the original project's loss, gradient
checkpointing and AdamW, from features to updated weights. Theirs is what its notebook does, with transformers'
`Trainer` taken off: the plain `Wav2Vec2BertModel`, under float16 autocast with a scaled loss on a GPU and in float32 on
a CPU. Ours is preset `kardsim` as `audio2img-train fit --trainer.bf16 true` runs it: `AudioEncoder` under bfloat16
autocast, `training.loss.contrastive`. Each in a process of its own. Writes `benchmarks/results/train_step.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.paired import in_child, machine, write_result  # noqa: E402

BATCH, FRAMES, TOKENS, WIDTH = 8, 188, 47, 1024


def measure(code: str, folder: str, steps: int) -> dict:
    """Seconds of each step and its loss."""
    import torch
    from transformers import Wav2Vec2BertModel

    from audio2img_core import AudioEncoder
    from audio2img_core.devices import resolve_device
    from benchmarks.contrastive_loss import TEMPERATURE, our_loss, seed_loss

    if code == "seed":
        model = Wav2Vec2BertModel.from_pretrained(folder, dtype=torch.float32)
        loss_of = seed_loss
    else:
        model = AudioEncoder.from_pretrained(folder, dtype=torch.float32)
        loss_of = our_loss
    device = resolve_device(None)
    gpu = device.type == "cuda"
    model.to(device).train()
    model.gradient_checkpointing_enable()
    half = torch.autocast(
        device.type, torch.bfloat16 if code == "ours" else torch.float16, enabled=gpu or code == "ours"
    )
    scaler = torch.amp.GradScaler(device.type, enabled=gpu and code == "seed")
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(BATCH, FRAMES, 160, generator=generator).to(device)
    mask = torch.ones(BATCH, FRAMES, dtype=torch.long, device=device)
    text = torch.randn(BATCH, TOKENS, WIDTH, generator=generator).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5)
    seconds, losses = [], []
    for _ in range(steps):
        start = time.perf_counter()
        with half:
            output = model(features, attention_mask=mask)
            tokens = output.last_hidden_state if code == "seed" else output.tokens
            loss = loss_of(tokens, text)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())  # waits until a GPU has done all of the step
        seconds.append(time.perf_counter() - start)
    memory = torch.cuda.max_memory_allocated() if gpu else None
    return {"seconds": min(seconds), "losses": losses, "temperature": TEMPERATURE, "gpu_memory": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2, help="of each; the quickest counts (default: %(default)s)")
    parser.add_argument("--measure", nargs=3, metavar=("CODE", "FOLDER", "STEPS"), help="one case")
    args = parser.parse_args()
    if args.measure:
        code, folder, steps = args.measure
        print(json.dumps(measure(code, folder, int(steps))))
        return
    from benchmarks.encode import save_random_weights

    with tempfile.TemporaryDirectory() as folder:
        save_random_weights(folder)
        rows = {code: in_child(__file__, "--measure", code, folder, args.steps) for code in ("seed", "ours")}
    ratio = rows["seed"]["seconds"] / rows["ours"]["seconds"]
    print("| code | seconds a step | samples a second | peak memory | losses |\n| --- | --- | --- | --- | --- |")
    for code, row in rows.items():
        memory = (row["gpu_memory"] or row["peak"]) / 1e9
        losses = ", ".join(f"{loss:.3f}" for loss in row["losses"])
        print(f"| {code} | {row['seconds']:.3f} | {BATCH / row['seconds']:.2f} | {memory:.1f} GB | {losses} |")
    print(f"{ratio:.1f}x samples a second")
    write_result("train_step", {"machine": machine(), "batch": BATCH, "rows": rows, "ratio": ratio})


if __name__ == "__main__":
    main()
