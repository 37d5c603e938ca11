import json
from pathlib import Path

from typer.testing import CliRunner, Result

from sercache.cli.main import app
from sercache.corpus.manifest import write_corpus
from sercache.corpus.readers.registry import READERS

TABLE = """id,text,speaker,split,votes:A,votes:B,votes:O,seconds
u1,they said it [b]would[/b] rain,s1,train,3,1,0,1.5
u2,they said it [b]would[/b] rain,s1,test,0,4,0,2.5
u3,no,s2,train,2,2,1,3.5
"""


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["corpus", "report", *map(str, arguments)])


def test_the_whole_story_on_one_screen(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text(TABLE)
    done = run(tmp_path / "c.csv")
    assert done.exit_code == 0, done.output
    for words in ("3 utterances, 2 speakers", "Krippendorff's alpha", "X (no agreement)", "Durations"):
        assert words in done.output
    assert "leak: train and test share 1 speaker, such as 's1'" in done.output
    assert "they said it [b]would[/b] rain" in done.output
    assert max(map(len, done.stdout.splitlines()[:-8])) <= 100


def test_json_is_all_there_is_on_stdout(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text(TABLE)
    report = json.loads(run(tmp_path / "c.csv", "--json").stdout)
    assert report["leaks"][0]["kind"] == "speaker"
    assert report["agreement"]["pairable"] == 3


def test_real_corpora(shared_data: Path, tmp_path: Path) -> None:
    for kind, folder in (("cremad", "cremad"), ("emotionlines", "friends")):
        write_corpus(READERS[kind](shared_data / folder, {}), tmp_path / "c.csv")
        done = run(tmp_path / "c.csv")
        assert done.exit_code == 0, done.output
        assert "Krippendorff's alpha" in done.output
