"""Trainings from TOML files: what they make, and one clear error for every mistake."""

import re
from pathlib import Path

import numpy as np
import pytest

from jmlv import checkpoints
from jmlv.bounds import CROWNIBP
from jmlv.cli import main
from jmlv.cli.settings import read_toml
from jmlv.cli.training_data import DATA, held_out
from jmlv.cli.training_plan import DEFENCES, LOSSES, SCHEDULES, read_plan
from jmlv.data import double_digits
from jmlv.models import MLPConfig
from jmlv.training import (
    AsymmetricLoss,
    CertifiedTraining,
    Checkpoints,
    Constant,
    LabelAndInstanceRanking,
    LinfDefence,
    TrainingConfig,
    WarmUp,
)

CONFIGS = Path(__file__).parents[2] / "experiments" / "configs"
SMALL = """
out = "{out}"
[data]
train_images = 64
test_images = 20
[model]
kind = "mlp"
hidden = [8]
[training]
epochs = 2
batch_size = 16
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text)
    return path


def plan(folder: Path, text: str):
    return read_plan(write(folder, text))


# ----------------------------------------------------------------------------- plans


def test_an_empty_file_is_a_training_with_the_defaults(tmp_path):
    found = plan(tmp_path, "")
    assert found.training == TrainingConfig() and found.checkpoints is found.held_out is None
    assert found.out == Path("results/train/config") and found.data == DATA["digits"]()


def test_everything_that_a_file_can_say(tmp_path):
    found = plan(
        tmp_path,
        """
        out = "here"
        training = { epochs = 3, learning_rate = 1, ema = 0.9, mixed_precision = true }
        loss = { kind = "ml-liw", labels = 2, penalty = "hinge" }
        defence = { kind = "crown-ibp", epsilon = 0.2, end = 0.5 }
        checkpoints = { folder = "run", every_steps = 7 }
        early_stopping = { patience = 2, share = 0.25 }
        data = { kind = "mulan", folder = "tables", name = "yeast", missing = "mean" }
        [schedule]
        kind = "warm-up"
        share = 0.2
        then = { kind = "constant" }
        """,
    )
    assert found.training == TrainingConfig(
        epochs=3, learning_rate=1, ema=0.9, mixed_precision=True, schedule=WarmUp(0.2, Constant())
    )
    assert isinstance(found.loss, LabelAndInstanceRanking) and found.loss.labels == 2
    assert found.loss.penalty.margin == 1
    assert found.defence == CertifiedTraining(CROWNIBP(), 0.2, end=0.5)
    assert found.checkpoints == Checkpoints("run", every_steps=7)
    assert found.held_out.share == 0.25 and found.data == DATA["mulan"]("tables", "yeast", "mean")


@pytest.mark.parametrize("kind", LOSSES)
def test_every_loss_has_a_name(kind, tmp_path):
    found = plan(tmp_path, f'[loss]\nkind = "{kind}"').loss
    scores, labels = np.zeros((2, 3), np.float32), np.eye(3, dtype=bool)[:2]
    assert found(scores, labels).shape == (2,)


@pytest.mark.parametrize(
    ("section", "kinds"), [("defence", DEFENCES), ("schedule", {**SCHEDULES, "warm-up": 0})]
)
def test_every_defence_and_schedule_has_a_name(section, kinds, tmp_path):
    found = [plan(tmp_path, f'[{section}]\nkind = "{kind}"') for kind in kinds]
    values = [p.defence if section == "defence" else p.training.schedule for p in found]
    assert len(set(values)) == len(kinds)


def test_sizes_may_be_the_datas_or_given(tmp_path):
    data = double_digits("test", size=2)
    text = '[model]\nkind = "mlp"\nhidden = [4, 5]\n'
    assert plan(tmp_path, text).model(data) == MLPConfig((32, 32, 1), (4, 5), 10)
    assert plan(tmp_path, text + "labels = 3").model(data).labels == 3


def test_held_out_images_are_others():
    data = double_digits("train", size=40)
    kept, stopping = held_out(data, 0.25, 0)
    assert (len(kept), len(stopping)) == (30, 10)
    together = np.concatenate([kept.images, stopping.images]).reshape(40, -1)
    assert sorted(map(tuple, together)) == sorted(map(tuple, data.images.reshape(40, -1)))


MISTAKES = {
    "nonsense =": "is not TOML",
    "epochs = 3": r"epochs: unknown; expected one of \['checkpoints'",
    "out = 3": "out: got 3; expected a folder",
    "[training]\nepoch = 3": r"training.epoch: unknown; expected one of \['batch_size'",
    "[training]\nepochs = 0": "training.epochs: got 0; expected an integer of at least 1",
    "[training]\nepochs = 1.5": "training.epochs: got 1.5; expected int",
    "[training]\nepochs = true": "training.epochs: got True; expected int",
    '[training]\nlearning_rate = "fast"': "training.learning_rate: got 'fast'; expected float",
    '[training]\nema = "0.9"': "training.ema: got '0.9'; expected float",
    "[training]\nema = 2.0": "training.ema: got 2.0",
    "[training]\nmixed_precision = 1": "training.mixed_precision: got 1; expected bool",
    "[training]\nschedule = 1": "training.schedule: unknown",
    "training = 3": "training: got 3; expected a table",
    '[schedule]\nkind = "slow"': r"schedule.kind: got 'slow'; expected one of \['constant'",
    '[schedule]\nkind = "cosine"\nend = 2': "schedule.end: got 2; expected a share",
    '[schedule]\nkind = "warm-up"\n[schedule.then]\nkind = "x"': "schedule.then.kind: got 'x'",
    '[schedule]\nkind = "warm-up"\nshar = 0.1': "schedule.shar: unknown",
    '[loss]\nkind = "asl"\ngamma = 2': "loss.gamma: unknown",
    '[loss]\nkind = "asl"\nmargin = 2': "loss.margin: got 2",
    '[loss]\nkind = "ml-liw"\npenalty = "x"': "loss.penalty: got 'x'; expected",
    '[defence]\nkind = "ibp"\nmethod = "ibp"': "defence.method: unknown",
    '[defence]\nkind = "linf"\nepsilon = 2': "defence.epsilon: got 2",
    "[checkpoints]\nevery_epochs = 1": r"checkpoints.folder: missing; expected it in \[checkpoints",
    '[checkpoints]\nfolder = "x"\nkeep = 0': "checkpoints.keep: got 0",
    "[early_stopping]\nshare = 1.0": "early_stopping.share: got 1.0",
    '[data]\nkind = "imagenet"': r"data.kind: got 'imagenet'; expected one of \['coco'",
    '[data]\nkind = "mulan"\nname = "yeast"': "data.folder: missing",
    '[data]\nkind = "voc"\nfolder = "x"\ntrain = "all"': "data.train: got 'all'; expected",
}


@pytest.mark.parametrize("text", MISTAKES, ids=lambda text: text.replace("\n", " "))
def test_mistakes_are_one_line_that_names_the_key(text, tmp_path, capsys):
    assert main(["train", str(write(tmp_path, text))]) == 2
    error = capsys.readouterr().err
    assert re.search(MISTAKES[text], error) and error.count("\n") == 1


def test_impossible_sizes_are_named_too(tmp_path, capsys):
    text = SMALL.format(out=tmp_path) + '[defence]\nkind = "none"\n'
    for old, new, message in (
        ("hidden = [8]", "hidden = [8, 0]", "model.hidden: got (8, 0)"),
        ("hidden = [8]", "hidden = 8", "model.hidden: got 8; expected tuple[int, ...]"),
        ("hidden = [8]", "hiden = [8]", "model.hiden: unknown"),
        ("hidden = [8]", "labels = 3", "model: got 3 labels"),
    ):
        assert main(["train", str(write(tmp_path, text.replace(old, new))), "--quiet"]) == 2
        assert message in capsys.readouterr().err


# ------------------------------------------------------------------------------- runs


def test_a_training_is_measured_saved_and_gone_on_with(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("jmlv.cli.train.PGD_EPSILONS", (0.05,))
    monkeypatch.setattr("jmlv.cli.train.PGD_STEPS", 1)
    text = SMALL.format(out=tmp_path / "net") + f'[checkpoints]\nfolder = "{tmp_path}/run"\n'
    path = write(tmp_path, text + "[early_stopping]\nshare = 0.25\n")
    assert main(["train", str(path), "--quiet"]) == 0
    model, metadata = checkpoints.restore(tmp_path / "net")
    assert model.config == MLPConfig((32, 32, 1), (8,), 10)
    assert metadata.data["train"] == 48 and len(metadata.training["validation"]) == 2
    expected = {"hamming_loss", "mean_average_precision", "top_k_accuracy", "pgd_accuracy_0.05"}
    assert expected <= set(metadata.metrics)
    assert metadata.training["config"]["model"] == {"kind": "mlp", "hidden": [8]}
    assert main(["train", str(path), "--quiet"]) == 0
    again, repeated = checkpoints.restore(tmp_path / "net")
    assert repeated == metadata
    assert np.array_equal(again.dense0.kernel[...], model.dense0.kernel[...])
    assert str(tmp_path / "net") in capsys.readouterr().out


def test_tables_and_photographs_train_too(tmp_path):
    Image = pytest.importorskip("PIL.Image")
    names = ["@attribute a numeric", "@attribute b {0,1}", "@attribute c {0,1}", "@data"]
    rows = [f"{i},{i % 2},{i // 2 % 2}" for i in range(8)]
    (tmp_path / "t.arff").write_text("\n".join(["@relation t", *names, *rows]) + "\n")
    (tmp_path / "t.xml").write_text('<labels><label name="b"/><label name="c"/></labels>')
    listed = ["filepath,label,split_name"]
    (tmp_path / "images").mkdir()
    for i, (label, split) in enumerate([("sky", "train"), ("sea", "train"), ("sky", "val")]):
        Image.new("RGB", (8, 8), (80 * i, 0, 0)).save(tmp_path / "images" / f"{i}.jpg")
        listed.append(f"images/{i}.jpg,\"['{label}']\",{split}")
    (tmp_path / "nus_wid_data.csv").write_text("\n".join(listed) + "\n")
    for source, shape in (('"mulan"\nname = "t"', (1, 1, 1)), ('"nus_wide"\nside = 8', (8, 8, 3))):
        text = SMALL.format(out=tmp_path / "net").replace("batch_size = 16", "batch_size = 2")
        data = f'[data]\nfolder = "{tmp_path}"\nkind = {source}\n'
        text = re.sub(r"\[data\][^[]*", data, text)
        assert main(["train", str(write(tmp_path, text)), "--quiet"]) == 0
        model, metadata = checkpoints.restore(tmp_path / "net")
        assert model.config.input_shape == shape and model.config.labels == 2
        assert 0 <= metadata.metrics["hamming_loss"] <= 1


def test_options_beside_a_file_are_refused(tmp_path, capsys):
    path = write(tmp_path, "")
    assert main(["train", str(path), "--epochs", "3", "--defences", "l0"]) == 2
    assert "--defences, --epochs: not beside a file" in capsys.readouterr().err
    assert main(["train", str(tmp_path / "absent.toml")]) == 2
    assert "there is no file" in capsys.readouterr().err


# --------------------------------------------------------------------------- examples


def test_the_examples_are_read():
    digits, emotions = (read_plan(CONFIGS / f"{name}.toml") for name in ("digits", "emotions"))
    assert digits.training.ema == 0.999 and digits.checkpoints.every_epochs == 1
    assert digits.model(double_digits("test", size=1)).channels == (24, 64)
    assert emotions.loss == AsymmetricLoss(gamma_negative=2.0)
    assert emotions.held_out.patience == 20


def test_defences_of_the_two_ways_are_the_same():
    from jmlv.cli.train import defences

    assert set(defences(1.0)) <= set(DEFENCES)
    assert DEFENCES["linf"](epsilon=0.1, steps=3) == defences(1.0)["linf"] == LinfDefence(0.1, 3)


def test_a_byte_order_mark_is_no_key(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text("\ufeffout = 'folder'\n", encoding="utf-8")
    assert read_toml(path) == {"out": "folder"}
