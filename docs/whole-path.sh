#!/bin/bash
# The whole path in one script, for an empty folder and a machine with `pip install 'imagefoundry[export]' datasets openai`: the
# demo, a data set of your own, estimate, generate, audit, export, read elsewhere, serve. Needs no GPU and no network; about two minutes.
set -euo pipefail

echo "== is this machine ready?"
imagefoundry doctor --no-ray --workspace workspace/own

echo "== the demo, on one of the four data sets of the miniature world"
imagefoundry genbench --datasets mini-novel --sources generative original --shots 1 --workspace workspace/demo --report report-demo

echo "== a data set of your own: one folder per split, in it one per class (here drawn; yours are photographs)"
python - << 'END'
from pathlib import Path

import numpy as np
from PIL import Image

random = np.random.default_rng(0)
colours = {"apple": (200, 40, 40), "leaf": (40, 160, 60), "pond": (40, 80, 200)}
for name, colour in colours.items():
    for split, number in (("train", 16), ("test", 1)):
        folder = Path("photos") / split / name
        folder.mkdir(parents=True, exist_ok=True)
        for one in range(number):
            blocks = np.clip(np.array(colour) + random.integers(-40, 40, (6, 6, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(blocks).resize((64, 64), Image.Resampling.BICUBIC).save(folder / f"{one}.png")
END
imagefoundry check photos

echo "== a pilot, and what a hundred thousand such images would take"
imagefoundry genbench --datasets photos --sources generative --shots 12 --workspace workspace/own --report report-own
imagefoundry estimate workspace/own --images 100000

echo "== more of the same: what the pilot made stays"
imagefoundry genbench --datasets photos --sources generative original --shots 1 4 16 --workspace workspace/own --report report-own
imagefoundry status workspace/own

echo "== audit and export"
imagefoundry audit workspace/own --images 20
imagefoundry export --workspace workspace/own --output export/own --format parquet --no-audit --where "split = 'train'"

echo "== read by a library that knows nothing of this one"
HF_HUB_OFFLINE=1 HF_HOME="$PWD/huggingface" python - << 'END'
from collections import Counter

from datasets import load_dataset

images = load_dataset("export/own", split="train")
names = images.features["label"].names
print(Counter(names[label] for label in images["label"]), images[0]["image"].size)
END

echo "== serve, and one request"
export IMAGEFOUNDRY_API_KEY=if-only-for-this-script
port=$(python -c "import socket; one = socket.socket(); one.bind(('127.0.0.1', 0)); print(one.getsockname()[1])")
imagefoundry serve --workspace workspace/own --port "$port" --no-warm-up &
server=$!
trap 'kill $server 2> /dev/null || true' EXIT
until python -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:$port/healthz')" 2> /dev/null; do
    kill -0 $server
    sleep 2
done
PORT=$port python - << 'END'
import base64
import os

import openai

client = openai.OpenAI(base_url=f"http://127.0.0.1:{os.environ['PORT']}/v1", api_key=os.environ["IMAGEFOUNDRY_API_KEY"])
image = client.images.generate(prompt="a photo of an apple", extra_body={"seed": 7}).data[0]
open("apple.png", "wb").write(base64.b64decode(image.b64_json))
print("apple.png:", image.model_extra["image_id"], f"{image.model_extra['usd']:.2g} USD")
END
kill $server
wait $server || true # it says that it was terminated
trap - EXIT
echo "== done: report-demo/index.html, report-own/index.html, export/own/README.md, apple.png"
