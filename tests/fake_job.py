"""Stands in for `llm train` in the sweep tests: called as `python fake_job.py train OVERRIDES...`.

model=lstm fails; trainer.max_time=hang sleeps, with a child of its own, until it is stopped; otherwise the validation
loss is trainer.max_steps / 100, or with seed=77 that is an accuracy.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

given = dict(word.split("=", 1) for word in sys.argv[2:] if "=" in word)
folder = Path(given.get("hydra.run.dir", given.get("resume", "")).strip("\"'"))
with (folder / "calls.jsonl").open("a") as calls:
    calls.write(json.dumps({"argv": sys.argv[1:], "env": dict(os.environ)}) + "\n")

if given.get("model") == "lstm":
    sys.stderr.write("loading\nerror: the loss is not finite\n       lower the learning rate\n")
    sys.exit(1)
if given.get("trainer.max_time") == "hang":
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    signal.signal(signal.SIGTERM, lambda *_: None if "model" in given else sys.exit(143))
    (folder / "pids.json.tmp").write_text(json.dumps([os.getpid(), worker.pid]))
    (folder / "pids.json.tmp").rename(folder / "pids.json")
    while True:
        time.sleep(0.05)
loss = int(given.get("trainer.max_steps", 0)) / 100
tagging = given.get("seed") == "77"
verdict = {"monitor": "val_accuracy" if tagging else "val_loss", "higher_is_better": tagging, "best": loss}
(folder / "metrics.json").write_text(json.dumps({**verdict, "perplexity": 2 * loss}))
status = {"state": "completed", "step": 5, "total_steps": 5, "last": loss, **verdict}
(folder / "status.json").write_text(json.dumps(status))
