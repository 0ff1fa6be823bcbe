"""Components that break the contract in one way each, and what their authors should read.

Each is a few lines on top of the right ones in `toyright`; `write_all` makes a distribution of them, as an installer
would leave it in a folder of the import path.
"""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent, indent
from typing import NamedTuple

import distributions


class Wrong(NamedTuple):
    """Hook, name, the check that must catch it, what its message holds (a regular expression), its source."""

    kind: str
    name: str
    check: str
    says: str
    source: str


_TASK = '''
"""Toy: one thing is wrong with it."""
import socket
import time
import numpy as np
import torch
from torch import Tensor, nn
from toyright import echo, phases
from toyright.encoders import Linear
from unlabel import Ref, Stage, momentum, seeds
CHANGES = {}
'''
_TINY = '''
def tiny():
    """Three updates."""
    task = Ref("NAME", **CHANGES.pop("options", {}))
    return echo.tiny().model_copy(update={"task": task, **CHANGES})
'''
_OTHER = '''
"""Toys: one thing is wrong with each."""
import socket
import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from pathlib import Path
from unlabel import Observer, seeds
from unlabel.data import Subset
from toyright import encoders, listening, pings
'''


def _task(name: str, says: str, body: str, after: str = "") -> Wrong:
    """A task that is `Echo` but for `body`, whose check is its name up to a dot."""
    source = "class Toy(echo.Echo):\n" + indent(dedent(body).strip() + "\n", "    ") + dedent(after)
    return Wrong("tasks", f"wrong/{name}", name.partition(".")[0], says, source)


TASKS = [
    Wrong(
        "tasks",
        "wrong/recipes_are_whole",
        "recipes_are_whole",
        r"wrong_plugin.task0 has no tiny\(\): a recipe of seconds .* add `def tiny\(\) -> Recipe:`",
        "class Toy(echo.Echo):\n    pass\n",
    ),
    _task(
        "recipes_are_whole.keyword",
        r"task.rate: wrong/recipes_are_whole.keyword has no keyword 'rate'; did you mean ratio",
        "pass",
        """
        def paper():
            \"\"\"Great.\"\"\"
            return echo.tiny().model_copy(update={"task": Ref("wrong/recipes_are_whole.keyword", rate=1.0)})
        """,
    ),
    _task(
        "recipes_are_whole.silent",
        r"quick\(\): has no docstring",
        "pass",
        "def quick():\n    return tiny()\n",
    ),
    _task(
        "trains.endless",
        r"gradient_norm is nan at update 0 of stage 'main'",
        """
        def loss(self, batch):
            return {**super().loss(batch), "loss_length": (self.decoder.bias - self.decoder.bias).norm() ** 0.5}
        """,
    ),
    _task("trains", "no echo", "def loss(self, batch):\n    raise KeyError('no echo')"),
    _task(
        "keywords_documented",
        r"keyword 'depth' has no type: annotate it; keyword 'depth' has no meaning: give it a line under 'Args:'",
        """
        def __init__(self, encoder, *, depth=1):
            super().__init__(encoder)
        """,
    ),
    _task(
        "loss_is_a_finite_scalar.vector",
        r"loss\(\) returns 'loss' of shape \(8, 8\): a scalar is expected",
        'def loss(self, batch):\n    return {"loss": self.decoder(self.encoder(batch["wave"])).square()}',
    ),
    _task(
        "loss_is_a_finite_scalar.nan",
        r"returns 'loudness' = nan on the first batch: it must be finite",
        'def loss(self, batch):\n    return {**super().loss(batch), "loudness": torch.tensor(float("nan"))}',
    ),
    _task(
        "loss_is_a_finite_scalar.detached",
        r"loss need no gradient, so nothing is learnt",
        'def loss(self, batch):\n    return {"loss": super().loss(batch)["loss_error"].detach()}',
    ),
    _task(
        "gradients_reach_what_learns.idle",
        r"parameters idle.\* \(2\) get no gradient: use them in loss\(\), or requires_grad_\(False\)",
        """
        def __init__(self, encoder):
            super().__init__(encoder)
            self.idle = nn.Linear(3, 3)
        """,
    ),
    _task(
        "gradients_reach_what_learns.zero",
        r"parameters idle.weight \(1\) get nothing but zeros in 3 updates",
        """
        def __init__(self, encoder):
            super().__init__(encoder)
            self.idle = nn.Linear(3, 3, bias=False)
        def loss(self, batch):
            return {**super().loss(batch), "loss_idle": 0 * self.idle.weight.sum()}
        """,
    ),
    _task(
        "gradients_reach_what_learns.teacher",
        r"parameters teacher.layer.\* \(2\) are a teacher's and learn: freeze them with requires_grad_\(False\)",
        """
        def __init__(self, encoder):
            super().__init__(encoder)
            self.teacher.requires_grad_(True)
        """,
    ),
    _task(
        "gradients_reach_what_learns.forgotten",
        r"parameters decoder.\* \(2\) in no optimizer: let optimizers\(\) include them",
        """
        def optimizers(self, stage):
            return {"main": torch.optim.SGD(self.encoder.parameters(), lr=0.1)}
        """,
    ),
    _task(
        "overfits_one_batch",
        r"200 updates on one batch moved the loss of stage 'main' from [\d.]+ to [\d.e+]+; a tenth less is expected",
        """
        def loss(self, batch):
            loss = super().loss(batch)["loss_error"]
            apart = super().loss(batch)["loss_apart"]
            return {"loss": 2 * loss.detach() - loss + 0.1 * apart}
        """,
    ),
    _task(
        "encode_is_repeatable.dropout",
        r"encoding the same samples twice gives other features \(by [\d.]+ of the largest one\): in evaluation mode",
        'def encode(self, batch):\n    return nn.functional.dropout(self.encoder(batch["wave"]))',
    ),
    _task(
        "encode_is_repeatable.key",
        r'encoding the same samples twice gives other features.*batch\["key"\]',
        'def encode(self, batch):\n    return self.encoder(batch["wave"]) + seeds.uniform(batch["key"], (4,))',
    ),
    _task(
        "encode_is_repeatable.width",
        r"encode\(\) returns 5 numbers a sample, but `dim` is 4: correct one of them",
        'def encode(self, batch):\n    return nn.functional.pad(self.encoder(batch["wave"]), (0, 1))',
    ),
    _task(
        "encode_is_repeatable.shape",
        r"encode\(\) returns shape \(8, 1, 4\) for 8 samples; expected \(8, dim\)",
        'def encode(self, batch):\n    return self.encoder(batch["wave"])[:, None]',
    ),
    _task(
        "encode_ignores_batch_mates",
        r"in other company the features of a sample differ by [\d.]+ of the largest one: encode\(\) must treat each",
        'def encode(self, batch):\n    features = self.encoder(batch["wave"])\n    return features - features.mean(0)',
    ),
    _task(
        "leaves_the_batch_alone.loss",
        r"loss\(\) changes batch field 'wave': work on a copy",
        'def loss(self, batch):\n    batch["wave"].clamp_(max=0.5)\n    return super().loss(batch)',
    ),
    _task(
        "leaves_the_batch_alone.encode",
        r"encode\(\) changes batch field 'wave': work on a copy",
        'def encode(self, batch):\n    return self.encoder(batch["wave"].sub_(1))',
    ),
    _task(
        "state_dict_is_everything",
        r"after loading its checkpoint the losses differ \(\d of 3 differ, most of all loss_\w+ \(by .*register_buffer",
        """
        def __init__(self, encoder):
            super().__init__(encoder)
            self.projection = float(torch.randn(()))
        def loss(self, batch):
            return super().loss({**batch, "wave": batch["wave"] * self.projection})
        """,
    ),
    _task(
        "resumes_exactly.counter",
        r"resumed after update 1, the run ends elsewhere \(\d+ of \d+ differ, most of all task: teacher.layer.\w+ \(by",
        """
        count = 0
        def after_update(self, progress):
            self.count += 1
            momentum.update(self.teacher, self.encoder, self.count / (self.count + 1))
        """,
    ),
    _task(
        "resumes_exactly.flags",
        r"resumed after update \d, the run ends elsewhere \(.*enter_stage\(\) must set flags whatever they were before",
        """
        def enter_stage(self, stage):
            if stage.name == "first":
                self.encoder.requires_grad_(False)
            else:
                for parameter in self.encoder.parameters():
                    parameter.requires_grad_(not parameter.requires_grad)
        """,
        'CHANGES = {"stages": [Stage(name=name, steps=3, batch_size=8, lr=1e-2) for name in ("first", "second")]}\n',
    ),
    _task(
        "resumes_exactly.epoch",
        r"resumed after update 1, the run ends elsewhere \(.*left as it was loaded when it says `resumed`",
        """
        def __init__(self, encoder):
            super().__init__(encoder)
            self.register_buffer("anchor", torch.zeros_like(self.decoder.weight))
        def enter_epoch(self, progress, resumed):
            self.anchor.copy_(self.decoder.weight.detach())
        def loss(self, batch):
            return {**super().loss(batch), "loss_anchor": (self.decoder.weight - self.anchor).square().sum()}
        """,
    ),
    _task(
        "randomness_is_injected.numpy",
        r"loss\(\) draws from numpy's global generator \(3 of 3 differ, most of all",
        'def loss(self, batch):\n    return super().loss({**batch, "wave": batch["wave"] * float(np.random.rand())})',
    ),
    _task(
        "randomness_is_injected.moved",
        r"loss\(\) draws from numpy's global generator \(its state moved\), which nobody seeds",
        "def loss(self, batch):\n    np.random.rand()\n    return super().loss(batch)",
    ),
    _task(
        "randomness_is_injected.time",
        r"with the same seed and batch the loss differs .* and from nothing else \(time, hash\(\)",
        """
        def loss(self, batch):
            return super().loss({**batch, "wave": batch["wave"] * (time.time_ns() % 1009 / 1009)})
        """,
    ),
    _task(
        "randomness_is_injected.seeded",
        r"loss\(\) seeds torch's generator, so that every update draws the same numbers: leave seeding to the loop",
        "def loss(self, batch):\n    torch.manual_seed(0)\n    return super().loss(batch)",
    ),
    _task(
        "transform_is_repeatable.numpy",
        r"transform\(\) a second time gives something else \(sample 0, epoch 0: wave; \d of \d+ differ\): draw only",
        "def transform(self):\n    return Loud()",
        """
        class Loud:
            def __call__(self, sample, draw):
                return {"wave": sample["wave"] * np.float32(np.random.rand())}
        """,
    ),
    _task(
        "keeps_to_its_device.item",
        r"in stage 'main', the loss waits for the device at task\d+.py:\d+: a value is asked of the device",
        """
        def loss(self, batch):
            terms = super().loss(batch)
            return {**terms, "loudness": torch.full_like(terms["loudness"], terms["loudness"].item())}
        """,
    ),
    _task(
        "keeps_to_its_device.mask",
        r"the loss waits for the device at task\d+.py:\d+: aten.nonzero.default asks it for values",
        """
        def loss(self, batch):
            wave = batch["wave"]
            return {**super().loss(batch), "loudness": wave[wave.abs() > 0].mean()}
        """,
    ),
    _task(
        "keeps_to_its_device.again",
        r"the loss waits for the device at task\d+.py:\d+: what came from the host is asked of the device again",
        """
        def loss(self, batch):
            loudest = int(batch["wave"].cpu().mean(dim=1).argmax())
            return {**super().loss(batch), "loudness": batch["wave"][loudest].mean()}
        """,
    ),
    _task(
        "keeps_to_its_device.constant",
        r"a tensor made on the host is copied to the device and waited for: make it there, or once \(a buffer\)",
        """
        def loss(self, batch):
            half = torch.tensor([0.5] * 8, device=batch["wave"].device)
            return {**super().loss(batch), "loudness": (half * batch["wave"]).mean()}
        """,
    ),
    _task(
        "keeps_to_its_device.attribute",
        r"the loss mixes devices at task\d+.py:\d+: new tensors take the device of their inputs",
        """
        def __init__(self, encoder):
            super().__init__(encoder)
            self.half = torch.full((8,), 0.5)
        def loss(self, batch):
            return {**super().loss(batch), "loudness": (self.half * batch["wave"]).mean()}
        """,
    ),
    _task(
        "keeps_to_its_device.term",
        r"loudness of the loss is on the host: new tensors take the device of their inputs",
        'def loss(self, batch):\n    return {**super().loss(batch), "loudness": torch.zeros(())}',
    ),
    _task(
        "transform_is_repeatable.hash",
        r"transform\(\) in another process gives something else",
        "gathers = False\ndef transform(self):\n    return Loud()",
        """
        class Loud:
            def __call__(self, sample, draw):
                return {"wave": sample["wave"] * np.float32(hash("loud") % 97)}
        """,
    ),
    _task(
        "transform_is_repeatable.closure",
        r"it cannot be handed to another process \(.*lambda.*keep functions, open files and the like out of its",
        "def transform(self):\n    return lambda sample, draw: sample",
    ),
    _task(
        "two_processes_are_one",
        r"in two processes the first updates compute something else than in one \(by [\d.]+ of its length, most of all",
        """
        def loss(self, batch):
            features = self.encoder(batch["wave"])
            return {**super().loss(batch), "loss_spread": (features - features.mean(0)).square().mean().neg().exp()}
        """,
    ),
    _task(
        "uses_no_network",
        r"the tiny run tried to look up '192.0.2.1' \(\d+ attempts\): use the network only where the user asks",
        """
        def loss(self, batch):
            try:
                socket.create_connection(("192.0.2.1", 9), timeout=0.01).close()
            except OSError:
                pass
            return super().loss(batch)
        """,
    ),
    _task(
        "evaluates.absent",
        r"no evaluation is called 'right/sprad'; did you mean right/spread",
        'evaluations = ("right/sprad",)',
    ),
    _task(
        "evaluates.nan",
        r"wrong/measures.nan returns spread = nan: a finite number is expected",
        'evaluations = ("wrong/measures.nan",)',
    ),
    _task(
        "exports_and_returns",
        r"the exported encoder gives other features \(by [\d.]+ of the largest one\): everything it computes with",
        """
        def __init__(self, encoder):
            super().__init__(encoder)
            self.encoder.factor = 2.0
        """,
        """
        class Scaled(Linear):
            factor = 1.0
            def forward(self, wave):
                return self.factor * super().forward(wave)
        CHANGES = {"encoder": Ref("wrong/scaled")}
        """,
    ),
    _task("fine", "", "pass", 'CHANGES = {"encoder": Ref("wrong/loads_elsewhere")}\n')._replace(check=""),
]
"""Tasks; `fine` is right, and uses an encoder that is not."""

OTHERS = [
    Wrong(
        "encoders",
        "wrong/scaled",
        "",
        "",
        """
        def scaled() -> nn.Module:
            \"\"\"Scales, for the task that says so.\"\"\"
            from wrong_plugin.exporting import Scaled
            return Scaled(4)
        """,
    ),
    Wrong(
        "encoders",
        "wrong/loads_elsewhere",
        "loads_elsewhere",
        r"gives other features than the run \(largest difference 1\)",
        """
        class Deaf(encoders.Open):
            \"\"\"Its snippet forgets something.\"\"\"
            def loading_code(self, file):
                return super().loading_code(file) + "model.bias.data += 1\\n"
        """,
    ),
    Wrong(
        "encoders",
        "wrong/makes_its_dim",
        "makes_its_dim",
        r"the encoder returns shape \(3, 3\), but `.dim` is 5: correct one of them",
        """
        class Wide(encoders.Open):
            \"\"\"Promises more than it gives.\"\"\"
            def __init__(self):
                super().__init__()
                self.dim = 5
        """,
    ),
    Wrong(
        "encoders",
        "wrong/makes_its_dim.none",
        "makes_its_dim",
        r"the encoder's `.dim` is None: the width of its features is expected, a positive integer",
        """
        class Dimless(nn.Linear):
            \"\"\"Says nothing.\"\"\"
            def __init__(self):
                super().__init__(8, 3)
        """,
    ),
    Wrong(
        "encoders",
        "wrong/makes_its_dim.class",
        "makes_its_dim",
        r"makes a dict: a torch module is expected",
        'def table():\n    """A table."""\n    return {}\n',
    ),
    Wrong(
        "encoders",
        "wrong/is_described",
        "is_described",
        r"wrong_plugin.toys:Silent has no docstring: say in its first line what wrong/is_described is",
        "class Silent(encoders.Linear):\n    def __init__(self):\n        super().__init__(4)\n",
    ),
    Wrong(
        "datasets",
        "wrong/resolves.kind",
        "resolves",
        r"wrong_plugin.toys:Rows is no subclass of unlabel.Dataset, which datasets are",
        """
        class Rows:
            \"\"\"Rows.

            Args:
                path: of the file.
            \"\"\"
            claims = pings.Pings.claims
            def __init__(self, path: str):
                pass
        """,
    ),
    Wrong(
        "datasets",
        "wrong/is_pure.memory",
        "is_pure",
        r"writing into a sample of the train part changes what is read next \(wave\): return a copy",
        """
        class Lending(pings.Pings):
            \"\"\"Hands out its memory.\"\"\"
            waves = np.ones((48, 8), dtype=np.float32)
            def __getitem__(self, index):
                return {"wave": self.waves[index]}
        """,
    ),
    Wrong(
        "datasets",
        "wrong/is_pure.hash",
        "is_pure",
        r"reading in another process gives something else \(sample 0, epoch 0: wave; 8 of \d+ differ\): compute a",
        """
        class Salted(pings.Pings):
            \"\"\"Depends on the process.\"\"\"
            def __getitem__(self, index):
                return {"wave": np.full(8, hash(str(index)) % 1009, dtype=np.float32)}
        """,
    ),
    Wrong(
        "datasets",
        "wrong/is_pure.file",
        "is_pure",
        r"it cannot be handed to another process \(TypeError: .*keep functions, open files and the like out",
        """
        class Opened(pings.Pings):
            \"\"\"Holds a file.\"\"\"
            def __init__(self):
                super().__init__()
                self.file = open(__file__)
            def __del__(self):
                self.file.close()
        """,
    ),
    Wrong(
        "datasets",
        "wrong/labels_fit.length",
        "labels_fit",
        r"the whole part has 40 labels for 48 samples",
        """
        class Short(pings.Pings):
            \"\"\"Too few labels.\"\"\"
            def __init__(self):
                super().__init__()
                self.labels = self.labels[:40]
            def split(self, name):
                return self if name == "train" else None
            def __getitem__(self, index):
                return {"wave": super().__getitem__(index)["wave"]}
        """,
    ),
    Wrong(
        "datasets",
        "wrong/labels_fit.sample",
        "labels_fit",
        r"sample 0 of the whole part says label 0, but labels\[0\] is 1",
        """
        class Swapped(pings.Pings):
            \"\"\"The other labels.\"\"\"
            def __init__(self):
                super().__init__()
                self.labels = 1 - self.labels
        """,
    ),
    Wrong(
        "datasets",
        "wrong/labels_fit.classes",
        "labels_fit",
        r"label 1 of the whole part has no name: `classes` has 1",
        'class Nameless(pings.Pings):\n    """One name."""\n    classes = (\'slow\',)\n',
    ),
    Wrong(
        "datasets",
        "wrong/hides_labels.field",
        "hides_labels",
        r"'speed' holds the labels: put them into `labels`",
        """
        class Telling(pings.Pings):
            \"\"\"Tells.\"\"\"
            def __getitem__(self, index):
                return {**super().__getitem__(index), "speed": np.float32(index % 2)}
        """,
    ),
    Wrong(
        "datasets",
        "wrong/hides_labels.context",
        "hides_labels",
        r"'kinds' holds the labels",
        """
        class Whispering(pings.Pings):
            \"\"\"Tells all at once.\"\"\"
            def split(self, name):
                return self if name == "train" else None
            def context(self):
                return {"kinds": nn.functional.one_hot(torch.from_numpy(self.labels))}
        """,
    ),
    Wrong(
        "datasets",
        "wrong/splits_are_disjoint.indices",
        "splits_are_disjoint",
        r"4 of 12 test samples are training samples too: evaluations would measure what was learnt by heart",
        """
        class Overlapping(pings.Pings):
            \"\"\"Overlaps.\"\"\"
            def split(self, name):
                return Subset(self, range(40) if name == "train" else range(36, 48))
        """,
    ),
    Wrong(
        "datasets",
        "wrong/splits_are_disjoint.content",
        "splits_are_disjoint",
        r"8 of the first 8 test samples are training samples too",
        """
        class Twice(pings.Pings):
            \"\"\"The same again.\"\"\"
            def split(self, name):
                return pings.Pings(count=16 if name == "train" else 8)
        """,
    ),
    Wrong(
        "datasets",
        "wrong/names_its_samples",
        "names_its_samples",
        r"name_of\(\) of the train part calls two samples 'ping': put the index in, or the path",
        'class Nameless2(pings.Pings):\n    """Pings."""\n    def name_of(self, index):\n        return \'ping\'\n',
    ),
    Wrong(
        "datasets",
        "wrong/table_is_what_is_read",
        "table_is_what_is_read",
        r"table\(\) differs from dataset\[index\]: wave of sample 0, wave of sample",
        """
        class Rolled(pings.Crowd):
            \"\"\"In another order.\"\"\"
            def table(self):
                return {"wave": super().table()["wave"].roll(1, 0)}
        """,
    ),
    Wrong(
        "datasets",
        "wrong/claims_only_its_own",
        "claims_only_its_own",
        r"claims\(an empty folder\) is True: claim a path only when there is a file in it that can be read",
        """
        class Greedy(pings.Pings):
            \"\"\"Wants all.\"\"\"
            @classmethod
            def claims(cls, path):
                return path.is_dir()
        """,
    ),
    Wrong(
        "datasets",
        "wrong/reads_without_network",
        "reads_without_network",
        r"it tried to look up 'pings.example.org': embed a small default, and download only in prepare\(\)",
        """
        class Remote(pings.Pings):
            \"\"\"Asks elsewhere, and overlooks that nobody answers.\"\"\"
            def __init__(self):
                super().__init__()
                try:
                    socket.getaddrinfo("pings.example.org", 80)
                except OSError:
                    pass
        """,
    ),
    Wrong(
        "evaluations",
        "wrong/measures.nan",
        "measures",
        r"wrong/measures.nan returns spread = nan: a finite number is expected",
        'def nothing(frozen):\n    """Nothing."""\n    return {\'spread\': float(\'nan\')}\n',
    ),
    Wrong(
        "evaluations",
        "wrong/measures.number",
        "measures",
        r"wrong/measures.number returns 0.5: numbers by name are expected",
        'def half(frozen):\n    """A half."""\n    return 0.5\n',
    ),
    Wrong(
        "observers",
        "wrong/hears_every_event",
        "hears_every_event",
        r"AttributeError: .*'file'",
        """
        class Late(Observer):
            \"\"\"Opens its file when a run starts, and thinks that every run does.\"\"\"
            def start(self, recipe):
                self.file = (self.folder / "late.txt").open("w")
            def close(self):
                self.file.close()
        """,
    ),
    Wrong(
        "observers",
        "wrong/changes_nothing",
        "changes_nothing",
        r"an observed run ends elsewhere \(2 of 2 differ, most of all encoder.\w+ \(by .*: an observer only listens",
        """
        class Meddling(Observer):
            \"\"\"Slows down.\"\"\"
            def stage(self, number, stage, start):
                stage.lr = 1e-4
        """,
    ),
    Wrong(
        "optimizers",
        "wrong/descends_and_resumes_exactly",
        "descends_and_resumes_exactly",
        r"a resumed run ends elsewhere \(.*: keep all it needs as tensors or numbers in `state`",
        """
        class Forgetful(Optimizer):
            \"\"\"Counts its updates where no checkpoint looks.\"\"\"
            def __init__(self, params, lr: float = 0.1):
                super().__init__(params, {"lr": lr})
                self.count = 0
            def step(self):
                self.count += 1
                for group in self.param_groups:
                    for parameter in group["params"]:
                        parameter.data -= group["lr"] / self.count * parameter.grad
        """,
    ),
    Wrong(
        "commands",
        "list",
        "has_help",
        r"`unlabel list` is a command of the core's: choose another name",
        'def lists():\n    """Lists."""\n',
    ),
    Wrong(
        "commands",
        "wrong-play",
        "has_help",
        r"loud of wrong_plugin.toys:play has no type: annotate it, so that values are checked",
        'def play(path: Path, loud=False):\n    """Plays."""\n',
    ),
]
"""Everything else; those without a check are right, and needed by others."""

WRONGS = [*TASKS, *OTHERS]


def write_all(folder: Path) -> None:
    """Write distribution ``unlabel-wrong`` with all of them into a folder of the import path."""
    modules, offers = {}, {}
    for number, wrong in enumerate(TASKS):
        whole = wrong.name == "wrong/recipes_are_whole"
        module = "exporting" if wrong.name == "wrong/exports_and_returns" else f"task{number}"
        modules[module] = _TASK.lstrip() + wrong.source + ("" if whole else _TINY.replace("NAME", wrong.name))
        offers.setdefault("tasks", {})[wrong.name] = f"wrong_plugin.{module}:Toy"
    modules["toys"] = _OTHER.lstrip() + "\n".join(dedent(wrong.source) for wrong in OTHERS)
    for wrong in OTHERS:
        made = dedent(wrong.source).split("class " if "class " in wrong.source else "def ")[1]
        attribute = made.partition("(")[0].partition(":")[0]
        offers.setdefault(wrong.kind, {})[wrong.name] = f"wrong_plugin.toys:{attribute}"
    hooks = "".join(f"\n@hookimpl\ndef {kind}():\n    return {names!r}\n" for kind, names in offers.items())
    distributions.write(folder, "wrong", distributions.HOOKS + hooks, modules=modules)
