"""Apache Kafka's jars, fetched once by Maven into the repository's cache folder."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import tempfile
from pathlib import Path

KAFKA_VERSION = "4.1.1"

_REPOSITORY = Path(__file__).resolve().parents[2]
_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>headrace</groupId>
  <artifactId>kafka</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{KAFKA_VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version>
    </dependency>
  </dependencies>
</project>
"""


def kafka_jars() -> Path:
    """The folder with Kafka and all it needs; Maven fills it at the first call, other processes wait.

    Raises:
        RuntimeError: Maven failed; ends with what it said.
    """
    folder = _REPOSITORY / ".cache" / f"kafka-{KAFKA_VERSION}"
    folder.parent.mkdir(exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            _fetch_into(folder)
    return folder


def _fetch_into(folder: Path) -> None:
    # Renamed when complete, so a fetch that was cut short never looks like a good one.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="fetch-") as name:
        work = Path(name)
        (work / "pom.xml").write_text(_POM)
        maven = subprocess.run(
            [
                *("mvn", "--batch-mode", "--quiet", "dependency:copy-dependencies"),
                *("-DincludeScope=runtime", f"-DoutputDirectory={work / 'jars'}"),
            ],
            cwd=work,
            capture_output=True,
            text=True,
        )
        if maven.returncode != 0:
            said = (maven.stdout + maven.stderr)[-2000:]
            raise RuntimeError(
                f"Maven could not fetch Kafka {KAFKA_VERSION} (code {maven.returncode}):\n{said}"
            )
        shutil.move(work / "jars", folder)
