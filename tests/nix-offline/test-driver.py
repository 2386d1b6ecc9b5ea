#!/usr/bin/env python3
"""Runs the testScript of a NixOS test on systemd containers instead of VMs.

usage: test-driver.py TEST WORK [PROGRAMS [SCRIPT]]     (as root)

TEST holds nodes.json (what the nodes' modules came to) and testScript.py. Each node is the host's own systemd as PID 1 in
namespaces of its own (systemd-container.sh), with the network of NixOS's tests: eth1, eth2, ... on the bridges of
virtualisation.vlans, 192.168.VLAN.NUMBER/24. PROGRAMS, the directory with ctsync, is seen as /opt/ctsync/bin.
SCRIPT, after the helpers of tests/nixos, stands in for testScript.py.
What is not NixOS: programs and kernel are the host's; the firewall is what ruleset says; a switch to another configuration is
told below. What a machine wrote is in WORK/NAME/out.
"""
import contextlib, json, os, pathlib, shutil, signal, subprocess, sys, time

HERE = pathlib.Path(__file__).resolve().parent
PATH = "/opt/ctsync/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HELPERS = HERE.parent / "nixos/helpers.py"
HUB = f"ntl{os.getpid()}"
CG = pathlib.Path("/sys/fs/cgroup/unified")
CG = CG if CG.is_dir() else CG.parent


def run(*a, **k):
    return subprocess.run(a, check=True, **k)


def say(*a):
    print(f"{time.monotonic() - T0:7.2f}", *a, flush=True)


class Machine:
    def __init__(self, name, d, work):
        self.name, self.d, self.dir, self.proc, self.pid, self.err = name, d, work / name, None, None, None
        self.path = ":".join([*d["path"], PATH])

    def log(self, m):
        say(f"{self.name}:", m)

    def start(self, **_):
        if self.proc:
            return
        shutil.rmtree(self.dir, ignore_errors=True)
        out, ov = self.dir / "out", self.dir / "root"
        sysd = ov / "etc/systemd/system"
        sysd.mkdir(parents=True), out.mkdir()
        for n, text in self.d["units"].items():
            (sysd / n).write_text(text)
        for link, n in self.d["wants"].items():
            (sysd / link).parent.mkdir(exist_ok=True)
            (sysd / link).symlink_to(f"../{n}")
        for n in ("console-getty.service", "getty.target", "systemd-logind.service", "systemd-timesyncd.service"):
            (sysd / n).symlink_to("/dev/null")
        self._put_etc(self.d["etc"], ov / "etc")
        # the users of the machine, after the host's own
        for database, line in [("passwd", "{0}:x:{1}:{1}::/:/usr/sbin/nologin\n"), ("group", "{0}:x:{1}:\n")]:
            text = pathlib.Path("/etc", database).read_text()
            text += "".join(line.format(n, 900 + i) for i, n in enumerate(self.d["users"]))
            (ov / "etc" / database).write_text(text)
        (ov / "etc/hostname").write_text(self.name + "\n")
        self._put_switches(ov)
        if PROGRAMS:
            programs = ov / "opt/ctsync/bin"
            programs.mkdir(parents=True)
            shutil.copy2(PROGRAMS / "ctsync", programs)
        cid = f"{HUB}-{self.name}"
        self.proc = subprocess.Popen([HERE / "systemd-container.sh", cid, self.name, ov, out], stdin=subprocess.DEVNULL,
                                     stderr=subprocess.DEVNULL, start_new_session=True)
        end = time.monotonic() + 10
        while not self.pid:
            assert time.monotonic() < end, f"{self.name} did not start"
            time.sleep(0.02)
            for p in self._procs(CG / cid):
                if self._nspid(p) == "1":
                    self.pid = p
        ns = f"/proc/{self.pid}/ns/net"
        for i, vlan in enumerate(self.d["vlans"], 1):
            hub, num = f"h{self.d['number']}.{vlan}", self.d["number"]
            run("ip", "-n", HUB, "link", "add", hub, "type", "veth", "peer", "name", f"eth{i}", "netns", str(self.pid))
            run("ip", "-n", HUB, "link", "set", hub, "master", f"vlan{vlan}", "up")
            self._in("ip", "addr", "add", f"192.168.{vlan}.{num}/24", "dev", f"eth{i}", only_net=True)
            self._in("ip", "link", "set", f"eth{i}", "up", only_net=True)
        self._in("ip", "link", "set", "lo", "up", only_net=True)
        if self.d["gateway"]:
            self._in("ip", "route", "add", "default", "via", self.d["gateway"], only_net=True)
        for k, v in self.d["sysctl"].items():
            self._in("sysctl", "-qw", f"{k}={int(v) if isinstance(v, bool) else v}", only_net=True)
        if self.d.get("ruleset"):
            self._in("nft", "-f", "-", only_net=True, input=self.d["ruleset"].encode())
        (out / "go").touch()
        self.log("started")

    @staticmethod
    def _put_etc(files, etc):
        for target, file in files.items():
            path = etc / target
            path.parent.mkdir(parents=True, exist_ok=True)
            if "text" in file:
                path.write_text(file["text"])
            else:
                shutil.copyfile(file["source"], path)
            if file["mode"] != "symlink":
                path.chmod(int(file["mode"], 8))

    def _put_switches(self, root):
        """switch-to-configuration, as NixOS does it: files, daemon-reload, then units that changed are reloaded, if nothing but
        their reload triggers did, or restarted."""
        for name, new in self.d["specialisation"].items():
            top = root / "run-current-system/specialisation" / name
            (top / "bin").mkdir(parents=True)
            self._put_etc(new["etc"], top / "etc")
            units, verbs = top / "etc/systemd/system", []
            units.mkdir(parents=True, exist_ok=True)
            for unit, text in new["units"].items():
                (units / unit).write_text(text)
                former = self.d["units"].get(unit)
                if text != former:
                    both = [[x for x in t.splitlines() if not x.startswith("X-Reload-Triggers=")] for t in (text, former or "")]
                    verbs.append(f"systemctl {'reload' if both[0] == both[1] else 'restart'} {unit}")
            script = top / "bin/switch-to-configuration"
            script.write_text("\n".join([
                "#!/bin/sh", "set -e", f"cp -a /run-current-system/specialisation/{name}/etc/. /etc/", "systemctl daemon-reload", *verbs, ""]))
            script.chmod(0o755)

    @staticmethod
    def _procs(cg):
        try:
            return [int(p) for p in (cg / "cgroup.procs").read_text().split()]
        except OSError:
            return []

    @staticmethod
    def _nspid(pid):
        try:
            line = [x for x in open(f"/proc/{pid}/status") if x.startswith("NSpid:")][0].split()
            return line[-1] if len(line) > 2 else None
        except (OSError, IndexError):
            return None

    def _in(self, *argv, only_net=False, **k):
        flags = ["-n"] if only_net else ["-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w"]
        return subprocess.run(["nsenter", "-t", str(self.pid), *flags, "--", *argv], check=only_net, **k)

    def execute(self, cmd, check_return=True, timeout=900, **_):
        self.start()
        if not os.path.exists(f"/proc/{self.pid}/root/run/systemd/private"):
            time.sleep(0.3)  # not up yet
        try:
            r = self._in("/usr/bin/env", "-i", f"PATH={self.path}", "HOME=/root", "TERM=dumb", "bash", "-c",
                         f"set -euo pipefail; {cmd}", stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, timeout=timeout)
        except subprocess.TimeoutExpired:
            return 124, ""
        err = r.stderr.decode(errors="replace").strip()
        if err and err != self.err:
            self.log(f"stderr of `{cmd}`: {err}")
        self.err = err
        return r.returncode, r.stdout.decode(errors="replace")

    def succeed(self, *cmds, timeout=None):
        out = ""
        for c in cmds:
            st, o = self.execute(c, timeout=timeout)
            if st:
                raise Exception(f"{self.name}: command `{c}` failed (exit code {st})\n{o}")
            out += o
        return out

    def fail(self, *cmds, timeout=None):
        out = ""
        for c in cmds:
            st, o = self.execute(c, timeout=timeout)
            if st == 0:
                raise Exception(f"{self.name}: command `{c}` unexpectedly succeeded\n{o}")
            out += o
        return out

    def _retry(self, what, f, timeout):
        end = time.monotonic() + (timeout or 900)
        while True:
            r = f()
            if r is not None:
                self.log(f"{what}: ok")
                return r
            if time.monotonic() > end:
                raise Exception(f"{self.name}: {what}: timed out after {timeout} s")
            time.sleep(0.2)

    def wait_until_succeeds(self, cmd, timeout=900):
        def f():
            st, o = self.execute(cmd)
            return o if st == 0 else None
        return self._retry(f"wait_until_succeeds {cmd}", f, timeout)

    def wait_for_unit(self, unit, user=None, timeout=900):
        unit = unit if "." in unit else f"{unit}.service"
        def f():
            s = self.execute(f"systemctl show -p ActiveState --value {unit}")[1].strip()
            if s == "inactive" and "No jobs" in self.execute("systemctl list-jobs")[1]:
                raise Exception(f"{self.name}: unit {unit} is inactive and there are no pending jobs")
            if s == "failed":
                raise Exception(f"{self.name}: unit {unit} failed\n" + self.execute(f"journalctl -n30 -u {unit}")[1])
            return True if s == "active" else None
        self._retry(f"wait_for_unit {unit}", f, timeout)

    def wait_for_open_port(self, port, addr="localhost", timeout=900):
        self.wait_until_succeeds(f"exec 3<>/dev/tcp/{addr}/{port}", timeout)

    def _links(self, state):
        for v in self.d["vlans"]:
            run("ip", "-n", HUB, "link", "set", f"h{self.d['number']}.{v}", state)

    def tell_all(self):
        """What the machine knows, beside the other things that it wrote."""
        for name, command in [("journal", "journalctl --no-pager"), ("status", "ctsync status; ctsync show conntrack-sync statistics")]:
            if self.pid:
                (self.dir / "out" / name).write_text(self.execute(command, timeout=10)[1])
        say(f"what {self.name} says: {self.dir / 'out'}")

    def crash(self):
        if self.pid:
            # Power is lost at once: a kernel that loses its rules and tables before its links would still answer.
            self._links("down")
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.proc.wait()
            self.proc = self.pid = None
            self.log("crashed")


@contextlib.contextmanager
def subtest(name):
    say("subtest:", name)
    yield
    say("(finished: subtest:", name + ")")


def stop(*_):
    raise Exception("told to stop")


signal.signal(signal.SIGTERM, stop)
T0 = time.monotonic()
test, work = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
SCRIPT = pathlib.Path(sys.argv[4]) if len(sys.argv) > 4 else test / "testScript.py"
PROGRAMS = pathlib.Path(sys.argv[3]) if len(sys.argv) > 3 else None
work.mkdir(parents=True, exist_ok=True)
machines = [Machine(n, d, work.resolve()) for n, d in json.loads((test / "nodes.json").read_text()).items()]
run("ip", "netns", "add", HUB)
rc = 1
try:
    for v in sorted({v for m in machines for v in m.d["vlans"]}):
        run("ip", "-n", HUB, "link", "add", f"vlan{v}", "type", "bridge", "forward_delay", "0", "mcast_snooping", "0")
        run("ip", "-n", HUB, "link", "set", f"vlan{v}", "up")

    def start_all():
        for m in machines:
            m.start()

    env = {m.name: m for m in machines} | dict(start_all=start_all, subtest=subtest, machines=machines, log=say)
    if SCRIPT != test / "testScript.py":
        exec(compile(HELPERS.read_text(), "helpers", "exec"), env)
    exec(compile(SCRIPT.read_text(), SCRIPT.name, "exec"), env)
    say("test script finished")
    rc = 0
except Exception as e:
    say("FAILED:", e)
    for m in machines:
        m.tell_all()
finally:
    for m in machines:
        m.crash()
    run("ip", "netns", "del", HUB)
sys.exit(rc)
