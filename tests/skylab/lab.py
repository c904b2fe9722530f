"""A real SkyPilot on a real Slurm on this one machine: no cloud, no GPU, no internet.

    python tests/skylab/lab.py up|down [FOLDER]     # root; . FOLDER/env.sh then gives `sky` and Slurm's commands

Slurm nodes on loopback claim eight GPUs each, H100s and on one of them A100s (empty device files: nothing on CUDA
runs); SkyPilot reaches them by ssh, like any Slurm site, and runs managed jobs inside its API server. Preemption is
Slurm's: an allocation goes.
Everything lives in one folder, every process carries its name, and `down` leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NODES = {"n1": "H100", "n2": "H100", "n3": "H100", "n4": "H100", "n5": "A100"}  # and what they claim to have
HOSTS_LINE = f"127.0.0.1 {' '.join(NODES)} # patron-skylab"
ACCOUNT = "patron-skylab"  # another name of root with a home of its own: SkyPilot writes keys into its login's ~/.ssh
MARK = "PATRON_SKYLAB"  # in the environment of every process of the lab
CLUSTER = "lab"
NEEDED = {"slurmctld": "slurm-wlm", "munged": "munge", "sshd": "openssh-server", "rsync": "rsync"}
MACHINE = "CPUs=32 RealMemory=64000 State=UNKNOWN"  # what each node claims to be
BUCKET_KEYS = "[default]\naws_access_key_id = test-key-id\naws_secret_access_key = test-secret-key\n"  # of tests/s3.py
_COMPLAINT = re.compile(r"error|fail|refus|denied|255|fatal", re.I)
SSH_PORT, CONTROL_PORT, NODE_PORT, API_PORT = 22922, 26917, 26918, 47680


def reason_not_to() -> str | None:
    """Why no lab can be brought up here; None where it can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "the SkyPilot lab needs root on Linux, for Slurm's daemons"
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    missing = [package for program, package in NEEDED.items() if shutil.which(program, path=path) is None]
    if missing:
        return f"the SkyPilot lab needs packages: apt-get install {' '.join(missing)}"
    if any(importlib.util.find_spec(package) is None for package in ("hostlist", "grpc")):
        return "SkyPilot's part for Slurm is not installed: uv sync --extra slurm"
    return None


@dataclass
class Lab:
    folder: Path

    # --- up and down

    def up(self) -> None:
        """About 30 s, in a new folder or one that a `down` left; a lab that failed to come up takes itself down."""
        reason = reason_not_to() or self._ports_in_use()
        if reason:
            raise RuntimeError(reason)
        try:
            self._write_files()
            self._start_slurm()
            self.reach()
            self.sky("api", "start", timeout_s=120)
            self.sky("check", "slurm", timeout_s=120)
        except BaseException:
            self.down()
            raise

    def down(self) -> None:
        """Stop the API server, then everything else that carries the lab's name; undo /etc/hosts and /etc/passwd."""
        if (self.folder / "env.sh").exists():
            with contextlib.suppress(subprocess.SubprocessError):
                self.sky("api", "stop", timeout_s=30)
        for signum in (signal.SIGTERM, signal.SIGKILL, signal.SIGKILL):  # some are born while others are ended
            for process in self.processes():
                with contextlib.suppress(psutil.Error):
                    process.send_signal(signum)
            psutil.wait_procs(self.processes(), timeout=5)
        user = self.folder / "home/.sky/user_hash"
        if user.exists():  # the sockets of its ssh connections
            shutil.rmtree(f"/tmp/sky_ssh_{user.read_text().strip()}", ignore_errors=True)
        edit("/etc/hosts", lambda lines: [line for line in lines if line != HOSTS_LINE])
        for name in ("/etc/passwd", "/etc/shadow"):
            edit(name, without_account)

    def processes(self) -> list[psutil.Process]:
        """Everything that the lab started: by its mark; by pid, or by its log, where a program overwrites its own."""
        found = {process for process in psutil.process_iter() if _environ(process).get(MARK) == str(self.folder)}
        for path in (self.folder / "run").glob("*.pid"):
            with contextlib.suppress(psutil.Error, ValueError):
                pid, started_at = path.read_text().split()
                process = psutil.Process(int(pid))
                if process.create_time() == float(started_at):
                    found |= {process, *process.children(recursive=True)}
        found |= {process for process in psutil.process_iter(["name"]) if _writes_into(process, self.folder)}
        return [process for process in found if process.pid != os.getpid()]

    # --- what tests do to it

    def environ(self) -> dict[str, str]:
        """What SkyPilot and Slurm need to know, on top of the environment of whoever asks."""
        return {
            MARK: str(self.folder),
            "HOME": str(self.folder / "home"),
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "SKYPILOT_DISABLE_USAGE_COLLECTION": "1",
            "SKYPILOT_API_SERVER_LOCAL_PORT": str(API_PORT),
            "SKYPILOT_API_SERVER_ENDPOINT": f"http://127.0.0.1:{API_PORT}",
            "PYTHONPATH": f"{HERE / 'plugin'}:{ROOT}",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin",
        }

    def run(self, *command: str, timeout_s: float = 60, check: bool = True) -> str:
        done = subprocess.run(
            command, env=os.environ | self.environ(), capture_output=True, text=True, timeout=timeout_s, check=False
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def sky(self, *arguments: str, timeout_s: float = 60) -> str:
        return self.run(str(Path(sys.executable).parent / "sky"), *arguments, timeout_s=timeout_s)

    def reach(self) -> None:
        """Ask Slurm by ssh, as SkyPilot does. RuntimeError says what ssh and sshd said."""
        to = [f"{ACCOUNT}@127.0.0.1", "-p", str(SSH_PORT), "-i", str(self.folder / "login.key"), "-v", "-F", "none"]
        options = {"StrictHostKeyChecking": "no", "UserKnownHostsFile": "/dev/null", "ConnectTimeout": "30"}
        with tempfile.TemporaryDirectory(prefix="sky_ssh_", dir="/tmp") as sockets:  # SkyPilot's are there too
            options |= {"ControlMaster": "auto", "ControlPath": f"{sockets}/%C", "ControlPersist": "1s"}
            flags = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
            command = ["ssh", *to, *flags, "bash --login -c 'scontrol show partitions -o'"]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
        if done.returncode != 0 or "PartitionName=spot" not in done.stdout:
            sshd = (self.folder / "log" / "sshd.out").read_text().splitlines()
            said = [f"ssh ended with {done.returncode}", *done.stderr.splitlines()[-25:], "sshd:", *sshd[-15:]]
            raise RuntimeError("\n".join(said))

    def last_words(self) -> str:
        """What SkyPilot's server and sshd complained of, for whoever reads why a scene failed."""
        logs = (self.folder / "home/.sky/api_server/server.log", self.folder / "log/sshd.out")
        lines = [line for path in logs if path.exists() for line in path.read_text(errors="replace").splitlines()]
        return "\n".join([line for line in lines if _COMPLAINT.search(line)][-30:])

    def allocations(self, managed_job: int) -> list[str]:
        """Slurm's ids of the machines of SkyPilot's managed job, whose id ends the name of its cluster."""
        lines = [line.split() for line in self.run("squeue", "-h", "-t", "R", "-o", "%i %j").splitlines()]
        return [slurm_id for slurm_id, name in lines if re.search(rf"-{managed_job}-[0-9a-f]{{8}}$", name)]

    def nodes(self, managed_job: int) -> list[str]:
        """The machines of SkyPilot's managed job, the first of them first."""
        found = [self.run("squeue", "-h", "-j", slurm_id, "-o", "%N") for slurm_id in self.allocations(managed_job)]
        return [name for names in found for name in self.run("scontrol", "show", "hostnames", names.strip()).split()]

    def reclaim(self, managed_job: int) -> int:
        """Take the machines of a job away, with every process on them. How many there were."""
        ids = self.allocations(managed_job)
        for job_id in ids:
            for process in _inside(
                job_id
            ):  # SkyPilot detaches some, which a scancel would leave to train on without a machine
                with contextlib.suppress(psutil.Error):
                    process.kill()
            self.run("scancel", job_id)
        return len(ids)

    def reclaim_one(self, managed_job: int) -> None:
        """Take the last of several machines away. Slurm ends a job that lost a node on its other nodes too."""
        (job_id,) = self.allocations(managed_job)
        *_, last = self.nodes(managed_job)
        for process in _inside(job_id):
            if _environ(process).get("SLURMD_NODENAME") == last:
                with contextlib.suppress(psutil.Error):
                    process.kill()
        self.run("scancel", job_id)

    def trainers(self, managed_job: int) -> list[psutil.Process]:
        """What trains on the machines of a job."""
        inside = [process for job_id in self.allocations(managed_job) for process in _inside(job_id)]
        return [process for process in inside if "trainer.train" in process.cmdline()]

    def drain(self, *nodes: str) -> None:
        self.run("scontrol", "update", f"NodeName={','.join(nodes)}", "State=DRAIN", "Reason=test")

    def resume(self, *nodes: str) -> None:
        self.run("scontrol", "update", f"NodeName={','.join(nodes)}", "State=RESUME")

    # --- its files

    def _ports_in_use(self) -> str | None:
        """Two labs on one machine would talk to each other's daemons."""
        nodes = range(NODE_PORT, NODE_PORT + len(NODES))
        taken = [port for port in (SSH_PORT, CONTROL_PORT, *nodes, API_PORT) if _answers(port)]
        if not taken:
            return None
        return (
            f"ports {', '.join(map(str, taken))} are in use: end the lab that runs here, python {__file__} down FOLDER"
        )

    def _write_files(self) -> None:
        for name in ("run", "state", "runtime"):  # of a lab that was here before
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for name in ("run", "log", "state", "work", "tmp", "devices", "home/.slurm", "home/.sky", "login/.ssh"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        Path("/run/sshd").mkdir(exist_ok=True)  # where Debian's sshd separates privileges
        shutil.copytree(HERE / "shims", self.folder / "shims", dirs_exist_ok=True)
        uv = shutil.which("uv")
        if uv is None:
            raise RuntimeError("uv is not on PATH: pip install uv")
        _link(Path(uv), self.folder / "uv")
        self._make_runtime()
        edit("/etc/hosts", lambda lines: [*(line for line in lines if line != HOSTS_LINE), HOSTS_LINE])
        login, shadow = f"{ACCOUNT}:x:0:0::{self.folder}/login:/bin/bash", f"{ACCOUNT}:*:19000:0:99999:7:::"
        edit("/etc/passwd", lambda lines: [*without_account(lines), login])
        edit("/etc/shadow", lambda lines: [*without_account(lines), shadow])
        for key in ("login.key", "host.key"):
            (self.folder / key).unlink(missing_ok=True)
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / key)]
            subprocess.run(command, check=True)
        (self.folder / "munge.key").unlink(missing_ok=True)
        (self.folder / "munge.key").write_bytes(os.urandom(1024))
        (self.folder / "munge.key").chmod(0o400)
        shutil.copy(self.folder / "login.key.pub", self.folder / "login/.ssh/authorized_keys")
        for name, content in self._contents().items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(content).lstrip())
            path.chmod(0o600)
        for number in range(8):
            (self.folder / "devices" / f"gpu{number}").touch()

    def _make_runtime(self) -> None:
        """What SkyPilot would install on each machine: a venv that sees this one's packages, and can change none."""
        runtime = self.folder / "runtime"
        command = [str(self.folder / "uv"), "venv", "-q", "--offline", "--python", sys.executable, str(runtime)]
        subprocess.run(command, check=True, env=_without("VIRTUAL_ENV"))
        packages = sysconfig.get_path("purelib")
        own = runtime / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
        (own / "lab.pth").write_text(f"import site; site.addsitedir({packages!r})\nimport lab_ports, lab_gpus\n")
        for name in ("lab_ports.py", "lab_gpus.py"):
            shutil.copy(HERE / "shims" / name, own)
        sky = runtime / "bin" / "sky"
        sky.write_text(f"#!{runtime}/bin/python\nfrom sky.cli import cli\ncli()\n")
        sky.chmod(0o755)

    def _contents(self) -> Mapping[str, str]:
        at, host = self.folder, os.uname().nodename
        exports = "\n".join(f"export {name}='{value}'" for name, value in self.environ().items())
        path = f"{at}/shims:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        return {
            "env.sh": exports + "\n",
            "login/.bash_profile": f"export PATH={path} SLURM_CONF={at}/slurm.conf {MARK}={at} OMP_NUM_THREADS=1\n",
            "sshd_config": f"""
                Port {SSH_PORT}
                ListenAddress 127.0.0.1
                HostKey {at}/host.key
                PidFile none
                AuthorizedKeysFile .ssh/authorized_keys
                AllowUsers {ACCOUNT}
                PermitRootLogin prohibit-password
                PasswordAuthentication no
                KbdInteractiveAuthentication no
                UsePAM no
                StrictModes no
                MaxSessions 200
                MaxStartups 200
                SetEnv {MARK}={at} SLURM_CONF={at}/slurm.conf
                Subsystem sftp internal-sftp
                """,
            "slurm.conf": f"""
                ClusterName={CLUSTER}
                SlurmctldHost={host}(127.0.0.1)
                SlurmctldPort={CONTROL_PORT}
                SlurmdPort={NODE_PORT}
                SlurmUser=root
                SlurmdUser=root
                AuthType=auth/munge
                AuthInfo=socket={at}/run/munge.sock
                CredType=cred/munge
                StateSaveLocation={at}/state
                SlurmdSpoolDir={at}/state/%n
                SlurmctldPidFile={at}/run/slurmctld
                SlurmdPidFile={at}/run/slurmd-%n
                SlurmctldLogFile={at}/log/slurmctld.log
                SlurmdLogFile={at}/log/slurmd-%n.log
                ProctrackType=proctrack/linuxproc
                TaskPlugin=task/none
                MpiDefault=none
                SelectType=select/cons_tres
                SelectTypeParameters=CR_CPU_Memory
                SchedulerParameters=sched_interval=2,batch_sched_delay=0
                SlurmdParameters=config_overrides
                ReturnToService=2
                # what lingers after its machine went looks like a user's failure to SkyPilot
                KillWait=2
                InactiveLimit=0
                AccountingStorageType=accounting_storage/none
                JobAcctGatherType=jobacct_gather/none
                JobCompType=jobcomp/none
                GresTypes=gpu
                PreemptType=preempt/partition_prio
                PreemptMode=CANCEL
                Include {at}/nodes.conf
                PartitionName=spot Nodes=n[1-3],n5 Default=YES MaxTime=1-0 PriorityTier=1 GraceTime=0 State=UP
                PartitionName=full Nodes=n4 MaxTime=1-0 PriorityTier=1 GraceTime=0 State=UP
                PartitionName=urgent Nodes=n[1-4] MaxTime=1-0 PriorityTier=9 PreemptMode=OFF State=UP
                """,
            "nodes.conf": "".join(
                f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} Gres=gpu:{gpu}:8 {MACHINE}\n"
                for port, (name, gpu) in enumerate(NODES.items(), NODE_PORT)
            ),
            "gres.conf": "".join(
                f"NodeName={name} Name=gpu Type={gpu} File={at}/devices/gpu[0-7]\n" for name, gpu in NODES.items()
            ),
            "home/.aws/credentials": BUCKET_KEYS,
            "login/.aws/credentials": BUCKET_KEYS,
            "home/.slurm/config": f"""
                Host {CLUSTER}
                    HostName 127.0.0.1
                    Port {SSH_PORT}
                    User {ACCOUNT}
                    IdentityFile {at}/login.key
                    IdentitiesOnly yes
                """,
            "home/.sky/config.yaml": f"""
                allowed_clouds: [slurm]
                slurm:
                  provision_timeout: 20
                  cluster_configs:
                    {CLUSTER}: {{workdir: {at}/work, tmpdir: {at}/tmp}}
                jobs: {{controller: {{consolidation_mode: true}}}}
                """,
            "home/.sky/plugins.yaml": """
                plugins:
                  - class: patron_lab_plugin.LabPlugin
                """,
            "home/.sky/catalogs/v8/common/accelerators.csv": "AcceleratorName,Clouds\nA100,Slurm\nH100,Slurm\n",
        }

    def _start_slurm(self) -> None:
        at = self.folder
        munge = {
            "key-file": "munge.key",
            "socket": "run/munge.sock",
            "pid-file": "run/munged",
            "seed-file": "run/seed",
        }
        flags = [f"--{name}={at / value}" for name, value in munge.items()]
        self._start("munged", "munged", "--foreground", "--force", *flags, f"--log-file={at}/log/munged.log")
        _until(lambda: (at / "run/munge.sock").exists(), 10, "munged")
        self._start("slurmctld", "slurmctld", "-D", "-c")
        for node in NODES:
            (at / "state" / node).mkdir(exist_ok=True)
            self._start(f"slurmd-{node}", "slurmd", "-D", "-N", node)
        sshd = shutil.which("sshd", path="/usr/sbin:/usr/bin") or "sshd"  # it wants to be called by its whole path
        again = f"while true; do {sshd} -D -e -f {at}/sshd_config; echo sshd ended with $? >&2; sleep 1; done"
        self._start("sshd", "bash", "-c", again)  # as an init would keep it

        def idle() -> int:
            return self.run("sinfo", "-h", "-N", "-o", "%T", check=False).split().count("idle")

        _until(lambda: idle() >= len(NODES), 30, "Slurm")

    def _start(self, name: str, *command: str) -> None:
        environ = os.environ | self.environ()
        with (self.folder / "log" / f"{name}.out").open("wb") as output:
            started = subprocess.Popen(
                [shutil.which(command[0], path=environ["PATH"]) or command[0], *command[1:]],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environ, start_new_session=True,
            )  # fmt: skip
        created_at = psutil.Process(started.pid).create_time()
        (self.folder / "run" / f"{name}.pid").write_text(f"{started.pid} {created_at!r}")


def _environ(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


def _inside(slurm_id: str) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if _environ(process).get("SLURM_JOB_ID") == slurm_id]


def _writes_into(process: psutil.Process, folder: Path) -> bool:
    """Whether it is one of Slurm's step daemons, and its log is in the folder."""
    if process.info["name"] != "slurmstepd":
        return False
    with contextlib.suppress(OSError):
        return any(str(link.readlink()).startswith(f"{folder}/") for link in Path(f"/proc/{process.pid}/fd").iterdir())
    return False


def _without(name: str) -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != name}


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    target.symlink_to(source)


def without_account(lines: list[str]) -> list[str]:
    """A lab that was killed leaves its own; the first of two counts, and its keys are of a folder that is no more."""
    return [line for line in lines if not line.startswith(f"{ACCOUNT}:")]


def edit(name: str, change) -> None:
    """Rewrite a system file in place, keeping its inode: in containers it may be a mount."""
    path = Path(name)
    before = path.read_text().splitlines()
    after = change(before)
    if after != before:
        path.write_text("\n".join(after) + "\n")


def _answers(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex(("127.0.0.1", port)) == 0


def _until(holds, limit_s: float, what: str) -> None:
    end = time.monotonic() + limit_s
    while not holds():
        if time.monotonic() > end:
            raise RuntimeError(f"{what} did not come up within {limit_s:.0f} s")
        time.sleep(0.1)


if __name__ == "__main__":
    verb, *rest = sys.argv[1:] or ["help"]
    lab = Lab(Path(rest[0] if rest else Path(tempfile.gettempdir()) / "patron-skylab").absolute())
    if verb not in ("up", "down"):
        sys.exit(__doc__)
    getattr(lab, verb)()
    print(f"lab is {verb}: {lab.folder}")
