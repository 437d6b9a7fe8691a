"""Programs that pretend to train and evaluate, for comparisons.

The score of a run is 200 with adam, 100 with sgd, else 150, plus 10 times the seed (modulo 1000),
less 100 for each power of ten between the learning rate and 1e-3. Flags: `--fail SEED`,
`--wait 1` (until SIGINT), `--diverge RATE`, `--kill N` (N attempts save and are killed).
"""

TRAIN = """
import argparse, json, math, os, pathlib, signal, sys, time
parser = argparse.ArgumentParser()
names = "agent env optim optim.lr run-dir wandb resume fail wait steps threads diverge kill"
for flag in names.split():
    parser.add_argument("--" + flag)
parser.add_argument("--seed", type=int, default=0)
a, _ = parser.parse_known_args()
folder = pathlib.Path(a.resume or a.run_dir)
with open(folder.parent.parent / "calls.txt", "a") as calls:
    calls.write(("resume " if a.resume else "fresh ") + folder.name + chr(10))
if a.resume:
    seed, optim, steps, base = json.loads((folder / "made").read_text())
else:
    folder.mkdir(parents=True)
    seed, optim, steps = a.seed, a.optim or "own", int(a.steps or 100)
    rate = getattr(a, "optim.lr")
    loss = 0 if rate is None else round(100 * abs(math.log10(float(rate)) + 3))
    base = {"adam": 200.0, "sgd": 100.0}.get(optim, 150.0) + 10 * (seed % 1000) - loss
    (folder / "made").write_text(json.dumps([seed, optim, steps, base]))
    (folder / "config.toml").write_text(
        f'agent = "{a.agent}"\\nenv = "{a.env}"\\noptim = "{optim}"\\n[run]\\nseed = {seed}\\n'
        f'steps = {steps}\\n[agent_config]\\ngamma = 0.99\\n[optimizer]\\nlr = {rate or 0.01}\\n'
    )
card = {"frame_skip": 4, "sticky_actions": 0.25}
(folder / "provenance.json").write_text(json.dumps({"protocol": card}))
def end(status, message=""):
    summary = {"status": status, "steps": steps, "seconds": 2.5, "message": message}
    (folder / "summary.json").write_text(json.dumps(summary))
if a.fail == str(seed):
    end("failed", "loss is not finite at step 7")
    sys.exit("Traceback: not the message of the summary")
if a.diverge and a.diverge == getattr(a, "optim.lr"):
    end("failed", "NonFiniteError: not a finite number at step 7: loss = inf")
    sys.exit(1)
if a.kill or (folder / "kill").exists():
    left = int((folder / "kill").read_text() if a.resume else a.kill)
    (folder / "kill").write_text(str(left - 1))
    path = folder / "checkpoints" / "step-000000000050"
    path.mkdir(parents=True, exist_ok=True)
    (path / "manifest.json").write_text("{}")
    if left > 0:
        print("protocol: max_episode_steps=500", flush=True)
        os.kill(os.getpid(), 9)
if a.wait and not a.resume:
    def stop(*_):
        path = folder / "checkpoints" / "step-000000000050"
        path.mkdir(parents=True)
        (path / "manifest.json").write_text("{}")
        end("interrupted")
        sys.exit(130)
    signal.signal(signal.SIGINT, stop)
    (folder / "waiting").touch()
    time.sleep(600)
with open(folder / "metrics.jsonl", "w") as file:
    for step in range(0, steps + 1, 10):
        line = {"step": step, "time": 0.1, "episode/return": -1.0}
        if step % 50 == 0:
            line["eval/mean"] = base * step / steps
        file.write(json.dumps(line) + chr(10))
end("finished")
"""

EVALUATE = """
import json, pathlib, sys
folder, episodes = pathlib.Path(sys.argv[1]), int(sys.argv[3])
with open(folder.parent.parent / "calls.txt", "a") as calls:
    calls.write("evaluate " + folder.name + chr(10))
base = json.loads((folder / "made").read_text())[-1]
scores = {"episodes": episodes, "mean": base, "median": base + 1, "iqm": base + 2}
(folder / "evaluation.json").write_text(json.dumps(scores))
"""
