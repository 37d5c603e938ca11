import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard

from sercache import Bundle
from sercache.bundle import encoders as bundle_encoders
from sercache.bundle.encoders import describe_feature
from sercache.bundle.export import export_bundle
from sercache.bundle.hub import find_bundle, push_bundle
from sercache.bundle.recordings import recordings_of
from sercache.cache.store import Cache
from sercache.encoders.registry import load_encoder
from sercache.errors import BundleError
from sercache.experiments.distillation.distill import run_distillation
from sercache.experiments.distillation.student import DistillationSettings, prepare_distillation
from sercache.posteriors import ALL_FOLDS, Posteriors
from sercache.run import Run
from sercache.stacking.comparison import compare
from sercache.training.data import open_run
from sercache.training.finetuning.finetune import finetune_member
from sercache.training.finetuning.processes import Processes
from sercache.training.member import fold_rows


def test_the_recommended_stacker_goes_in_calibrated(finished, tmp_path):
    report = finished.bundle(tmp_path / "b")
    metrics = json.loads(finished.run.metrics_path.read_text())
    assert report.description.stacker == metrics["choice"]
    assert report.description.coverage == 0.9
    score = report.description.evaluation.scores["macro_f1"]
    assert score.value == metrics["rows"][metrics["choice"]]["scores"]["macro_f1"]["value"]
    assert report.description.training_data.speakers == 6
    assert report.description.training_data.utterances == 36
    assert sum(report.description.training_data.rows_by_class.values()) <= 36
    (answer,) = list(Bundle.load(report.folder, device="cpu").predict(recordings(finished)[:1]))
    assert answer.conformal_set


def test_the_baseline_goes_in_alone_with_its_score(finished, tmp_path):
    report = finished.bundle(tmp_path / "b", stacker="baseline")
    assert [member.name for member in report.description.members] == ["linear-baseline"]
    metrics = json.loads(finished.run.metrics_path.read_text())
    score = metrics["rows"]["baseline"]["scores"]["macro_f1"]["value"]
    assert report.description.evaluation.scores["macro_f1"].value == score
    assert report.description.coverage == 0.9


def recordings(finished):
    return recordings_of(finished.corpus, "test")


def test_nothing_of_a_bundle_names_a_path_of_the_machine(bundle_folder, finished):
    for path in bundle_folder.rglob("*"):
        if path.is_file() and path.suffix != ".safetensors":
            text = path.read_text()
            assert str(finished.run.root.parent) not in text
            assert str(finished.wavlm.parent) not in text


def test_a_folder_that_is_taken_is_kept(finished, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(BundleError, match="exists and is no bundle"):
        finished.bundle(tmp_path / "mine", replace=True)
    assert (tmp_path / "mine" / "thesis.tex").exists()
    finished.bundle(tmp_path / "b", stacker="soft-vote")
    with pytest.raises(BundleError, match="give --replace"):
        finished.bundle(tmp_path / "b", stacker="neural")
    assert finished.bundle(tmp_path / "b", stacker="neural", replace=True).description.stacker == "neural"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "mine"]


def test_a_failed_export_leaves_nothing_behind(finished, tmp_path, monkeypatch):
    def full_disk(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sercache.bundle.export.describe_feature", full_disk)
    with pytest.raises(OSError, match="No space left"):
        finished.bundle(tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_run_is_one_line(finished, tmp_path):
    unstacked = Run(shutil.copytree(finished.run.root, tmp_path / "run"))
    unstacked.metrics_path.unlink()
    with pytest.raises(BundleError, match=r"has no comparison yet; run sercache stack"):
        export_bundle(unstacked, tmp_path / "b")


def test_figures_of_other_members_are_refused(finished, tmp_path):
    run = Run(shutil.copytree(finished.run.root, tmp_path / "run"))
    posteriors = Posteriors.load(run.posteriors_path("deep"))
    mirrored = replace(posteriors, class_probabilities=posteriors.class_probabilities[:, ::-1].copy())
    mirrored.save(run.posteriors_path("deep"))
    with pytest.raises(BundleError, match="have changed since sercache stack"):
        export_bundle(run, tmp_path / "b", stacker="neural")


def change_neural_row(run, change):
    """Rewrite the row of ``neural`` in a run's metrics."""
    metrics = json.loads(run.metrics_path.read_text())
    change(metrics["rows"]["neural"])
    run.metrics_path.write_text(json.dumps(metrics))


def test_scores_belong_to_a_stacker_by_the_digest_of_its_inputs_not_by_its_seconds(finished, tmp_path):
    run = Run(shutil.copytree(finished.run.root, tmp_path / "run"))
    change_neural_row(run, lambda row: row.update(fit_seconds=1e6))
    assert export_bundle(run, tmp_path / "b", stacker="neural").folder.is_dir()
    change_neural_row(run, lambda row: row.update(input_digest="0" * 64))
    with pytest.raises(BundleError, match="have changed since sercache stack"):
        export_bundle(run, tmp_path / "c", stacker="neural")


def test_a_run_that_was_stacked_without_digests_must_be_stacked_again(finished, tmp_path):
    run = Run(shutil.copytree(finished.run.root, tmp_path / "run"))
    change_neural_row(run, lambda row: row.pop("input_digest"))
    with pytest.raises(
        BundleError, match=r"did not record .* 'neural' .*; run sercache stack .* again"
    ) as error:
        export_bundle(run, tmp_path / "b", stacker="neural")
    assert "\n" not in str(error.value)
    compare(run)
    assert export_bundle(run, tmp_path / "b", stacker="neural").folder.is_dir()


def test_another_version_of_the_library_is_worth_a_warning(bundle_folder, monkeypatch):
    monkeypatch.setattr("transformers.__version__", "99.0")
    events = []
    Bundle.load(bundle_folder, device="cpu", listener=events.append)
    warned = [event.message for event in events if event.kind == "warning"]
    assert any("this is transformers 99.0" in message for message in warned)


def test_code_runs_only_of_encoders_that_said_they_have_some(bundle_folder, monkeypatch):
    asked = []
    load = bundle_encoders.load_encoder

    def seen(*arguments, trust_remote_code, **options):
        asked.append(trust_remote_code)
        return load(*arguments, trust_remote_code=trust_remote_code, **options)

    monkeypatch.setattr(bundle_encoders, "load_encoder", seen)
    Bundle.load(bundle_folder, device="cpu", trust_remote_code=True)
    assert asked
    assert not any(asked)


def test_the_card_is_the_hubs_and_says_what_binds_the_user(finished, checkpoint, tmp_path):
    licensed = Path(shutil.copytree(finished.wavlm, tmp_path / "licensed" / finished.wavlm.name))
    (licensed / "README.md").write_text(
        "---\nlicense: cc-by-nc-4.0\ndatasets: [librispeech_asr]\nlanguage: en\n---\nmine\n"
    )
    recipe = finished.recipe.features["deep"].model_copy(update={"encoder": str(licensed)})
    spec = Cache(finished.recipe.cache).find(finished.recipe.features["deep"]).spec
    described = describe_feature(recipe, spec, tmp_path / "out", include=None)
    assert (described.card.license, described.card.datasets) == ("cc-by-nc-4.0", ("librispeech_asr",))
    report = finished.bundle(tmp_path / "b", stacker="neural")
    card = ModelCard.load(report.folder / "README.md")
    assert card.data.library_name == "sercache"
    assert {result.metric_type for result in card.data.eval_results} >= {"macro_f1", "uar"}
    assert "not stated by its repository" in card.text
    assert "Intended use" in card.text


def test_weights_that_are_a_pickle_become_safetensors(finished, tmp_path):
    import torch
    from safetensors.torch import load_file

    folder = Path(shutil.copytree(finished.wavlm, tmp_path / "old" / finished.wavlm.name))
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    recipe = finished.recipe.features["deep"].model_copy(update={"encoder": str(folder)})
    described = describe_feature(
        recipe, load_encoder(str(folder), "last2").spec, tmp_path / "out", include=True
    )
    copied = tmp_path / "out" / described.folder
    assert (copied / "model.safetensors").exists()
    assert not list(copied.glob("*.bin"))
    sound = torch.linspace(-1, 1, 4_000).numpy()
    before, after = (load_encoder(str(source), "last2").encode([sound])[0] for source in (folder, copied))
    assert abs(before - after).max() < 1e-6


def test_an_encoder_that_changed_since_is_refused(finished, tmp_path):
    changed = Path(shutil.copytree(finished.wavlm, tmp_path / "changed" / finished.wavlm.name))
    config = json.loads((changed / "config.json").read_text())
    (changed / "config.json").write_text(json.dumps(config | {"hidden_dropout": 0.3}))
    recipe = finished.recipe.features["deep"].model_copy(update={"encoder": str(changed)})
    spec = Cache(finished.recipe.cache).find(finished.recipe.features["deep"]).spec
    with pytest.raises(BundleError, match="has changed since its features were extracted"):
        describe_feature(recipe, spec, tmp_path / "out", include=True)


def test_up_to_the_hub_goes_what_the_description_names(bundle_folder, monkeypatch):
    sent = {}
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda self, name, **rest: f"hub/{name}")
    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", lambda self, **given: sent.update(given))
    assert push_bundle(bundle_folder, "acme/emotions", private=True) == "hub/acme/emotions"
    assert sent["repo_id"] == "acme/emotions"
    there = {
        path.relative_to(bundle_folder).as_posix() for path in bundle_folder.rglob("*") if path.is_file()
    }
    assert set(sent["allow_patterns"]) == there


def test_a_bundle_is_found_in_a_folder_or_on_the_hub(bundle_folder, tmp_path, monkeypatch):
    """A hub cache as a download leaves it."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--acme--emotions"
    shutil.copytree(bundle_folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert find_bundle(str(bundle_folder)) == bundle_folder
    found = find_bundle("acme/emotions")
    assert found == repository / "snapshots" / commit
    assert Bundle.load(found, device="cpu").name == Bundle.load(bundle_folder, device="cpu").name
    with pytest.raises(BundleError, match="neither a folder nor can it be fetched"):
        find_bundle("acme/unknown")
    with pytest.raises(BundleError, match="does not exist; sercache bundle RUN"):
        find_bundle("./nowhere")


def test_a_refit_is_one_model_that_learnt_from_every_fold(finished, tmp_path):
    run = Run(shutil.copytree(finished.run.root, tmp_path / "run"))
    report = export_bundle(run, tmp_path / "b", stacker="neural", refit=True, device="cpu")
    assert report.description.models == "refit"
    assert [member.models for member in report.description.members] == [
        (f"heads/{name}/refit.safetensors",) for name in ("fusion", "deep", "layered")
    ]
    stated = Posteriors.load(run.fold_folder("deep", ALL_FOLDS) / "predictions.parquet")
    assert set(stated.ids) == {row.id for row in finished.corpus.utterances if row.split == "test"}
    answers = list(Bundle.load(report.folder, device="cpu").predict(recordings(finished)))
    wanted = stated.take([answer.id for answer in answers]).class_probabilities
    predicted = [[answer.members["deep"][name] for name in stated.classes] for answer in answers]
    np.testing.assert_allclose(predicted, wanted, atol=1e-5)
    assert "was not evaluated out of fold" in (report.folder / "README.md").read_text()


def test_the_rows_of_a_refit(finished):
    data = open_run(finished.run.root.resolve())
    member = finished.recipe.members[1]
    rows = fold_rows(data, member, ALL_FOLDS)
    train = {row.id for row in finished.corpus.utterances if row.split == "train"}
    assert set(rows.fit) | set(rows.stop) == train
    assert not {finished.corpus.by_id[utterance_id].speaker for utterance_id in rows.fit} & {
        finished.corpus.by_id[utterance_id].speaker for utterance_id in rows.stop
    }
    assert rows.predicted["out-of-fold"] == ()


def test_a_finetuned_member_predicts_with_encoders_of_its_own(finished, tmp_path):
    """Its held-out rows get what stack gave them, and an ordinary member is not disturbed."""
    run = Run(shutil.copytree(finished.run.root, tmp_path / "run"))
    once = {"epochs": 1, "head_learning_rate": 1e-2, "encoder_learning_rate": 1e-3}
    settings = {"stage1": once, "stage2": {"epochs": 0}, "layers": 1}
    finetune_member(run, "deep", Processes.join("cpu"), changes=settings)
    compare(run)
    report = export_bundle(run, tmp_path / "b", stacker="soft-vote")
    (finetuned,) = [member for member in report.description.members if member.overlays]
    assert finetuned.name == "deep-finetuned"
    with pytest.raises(BundleError, match="is fine-tuned and cannot be refitted"):
        export_bundle(run, tmp_path / "c", stacker="soft-vote", refit=True)
    answers = list(Bundle.load(report.folder, device="cpu").predict(recordings(finished)))
    ids = [answer.id for answer in answers]
    stacked = Posteriors.load(run.stacker_folder("soft-vote") / "posteriors.parquet").take(ids)
    predicted = [list(answer.posteriors.values()) for answer in answers]
    np.testing.assert_allclose(predicted, stacked.class_probabilities, atol=1e-4)
    alone = {}
    for member in ("deep", "deep-finetuned"):
        alone[member] = Posteriors.load(run.posteriors_path(member)).take(ids).class_probabilities
        predicted = [list(answer.members[member].values()) for answer in answers]
        np.testing.assert_allclose(predicted, alone[member], atol=1e-4)


def test_a_student_stands_in_for_the_ensemble(finished, tmp_path):
    run = Run(shutil.copytree(finished.run.root, tmp_path / "run"))
    settings = DistillationSettings(features=("speech",), head="mean-linear", name="small", has_control=False)
    report = run_distillation(prepare_distillation(run, settings), device="cpu", workers=1)
    bundle = export_bundle(run, tmp_path / "b", student="small")
    assert [member.name for member in bundle.description.members] == ["small"]
    assert set(bundle.description.features) == {"speech"}
    score = bundle.description.evaluation.scores["macro_f1"].value
    assert score == pytest.approx(report.of("student").scores["macro_f1"].value)
    answers = list(Bundle.load(bundle.folder, device="cpu").predict(recordings(finished)))
    wanted = Posteriors.load(run.posteriors_path("small")).take([answer.id for answer in answers])
    predicted = [list(answer.posteriors.values()) for answer in answers]
    np.testing.assert_allclose(predicted, wanted.class_probabilities, atol=1e-5)
    with pytest.raises(BundleError, match=r"no distilled member 'smal' .*Did you mean 'small'"):
        export_bundle(run, tmp_path / "c", student="smal")
