#!/usr/bin/env python3
"""Scale and convergence of the release binary, with a real API server and a real Envoy.

Measures, and prints one line each:
  start   from the start of the process to /ready, and its memory then and at its peak, with SERVICES
          services of ENDPOINTS endpoints each, from a folder of manifests and from the API server;
  change  from a slice's change at the API server to the moment Envoy's admin shows it (100 times).

Needs etcd and kube-apiserver in KUBEBUILDER_ASSETS, Envoy in PILOTHOUSE_ENVOY and the release
binary. Run by `make bench-kubernetes`. Everything is on loopback and ended by process id.
"""
import concurrent.futures
import http.client
import json
import os
import pathlib
import re
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
SERVICES = int(os.environ.get("SERVICES", "10000"))
ENDPOINTS = int(os.environ.get("ENDPOINTS", "10"))
CHANGES = int(os.environ.get("CHANGES", "100"))
BINARY = os.environ.get("PILOTHOUSE", str(ROOT / "target/release/pilothouse"))
ENVOY = os.environ.get("PILOTHOUSE_ENVOY", str(ROOT / ".tools/venv/bin/envoy"))
ASSETS = pathlib.Path(os.environ.get("KUBEBUILDER_ASSETS", "."))


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def until(what, check, seconds=120, pause=0.005):
    """The first true value that `check` gives."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = check()
        if found:
            return found
        time.sleep(pause)
    sys.exit(f"{what}: not within {seconds} s")


def get(port, path):
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except OSError:
        return 0, ""


def service(number):
    name = f"svc-{number}"
    # 10.100.0.0 and up, within the API server's range 10.96.0.0/12.
    address = f"10.{100 + number // 65000}.{number % 65000 // 250}.{number % 250 + 1}"
    return {
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
        "spec": {"clusterIP": address, "selector": {"app": name},
                 "ports": [{"name": "http", "port": 9080, "targetPort": 9080, "protocol": "TCP"}]},
    }


def slice_of(number, variant=0):
    name = f"svc-{number}"
    endpoints = []
    for at in range(ENDPOINTS):
        host = number * ENDPOINTS + at
        second = 128 + host // 62500 + (64 if at == 0 and variant % 2 else 0)
        endpoints.append({
            "addresses": [f"10.{second}.{host % 62500 // 250}.{host % 250 + 1}"],
            "conditions": {"ready": True, "serving": True, "terminating": False},
            "nodeName": f"node-{host % 100}", "zone": f"zone-{host % 3}",
            "targetRef": {"kind": "Pod", "name": f"{name}-{at}", "namespace": "default",
                          "uid": f"00000000-0000-4000-8000-{host:012d}"},
        })
    return {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": f"{name}-slice", "namespace": "default",
                     "labels": {"kubernetes.io/service-name": name}},
        "ports": [{"name": "http", "port": 9080, "protocol": "TCP"}],
        "endpoints": endpoints,
    }


class Process:
    def __init__(self, command, log, **options):
        self.log = log
        self.child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=open(log, "wb"), **options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.terminate()
        try:
            self.child.wait(15)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()

    def memory(self, line):
        status = pathlib.Path(f"/proc/{self.child.pid}/status").read_text()
        return int(re.search(rf"{line}:\s+(\d+)", status)[1]) / 1024


class Pilothouse(Process):
    def __init__(self, folder, *source, **options):
        self.begun = time.monotonic()
        super().__init__(
            [BINARY, "serve", *source, "--grpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0",
             "--monitoring-addr", "127.0.0.1:0"], folder / "pilothouse.log", **options)

    def port(self, which):
        found = re.compile(rf"{which}\S*?=\S*?127\.0\.0\.1:(\d+)")
        plain = lambda: re.sub(r"\x1b\[[0-9;]*m", "", self.log.read_text().split("listening")[-1])
        ready = lambda: "listening" in self.log.read_text() and found.search(plain())
        return int(until("pilothouse's ports", ready)[1])

    def ready(self):
        port = self.port("monitoring")
        until("/ready", lambda: get(port, "/ready")[0] == 200)
        return time.monotonic() - self.begun


def report(source, server, took):
    time.sleep(2)
    print(f"start  {source:9} {SERVICES} services, {SERVICES * ENDPOINTS} endpoints: ready after "
          f"{took:.2f} s, memory {server.memory('VmRSS'):.0f} MiB, peak {server.memory('VmHWM'):.0f} MiB",
          flush=True)


def from_manifests(folder):
    manifests = folder / "manifests"
    manifests.mkdir()
    for file in range(100):
        numbers = range(file * SERVICES // 100, (file + 1) * SERVICES // 100)
        documents = [yaml(one) for number in numbers for one in (service(number), slice_of(number))]
        (manifests / f"{file:03}.yaml").write_text("---\n".join(documents))
    with Pilothouse(folder, "--manifests", str(manifests)) as server:
        report("manifests", server, server.ready())


def yaml(value, indent=0):
    """Block style, as people and kubectl write it."""
    pad, out = "  " * indent, []
    if isinstance(value, dict):
        for key, inner in value.items():
            if isinstance(inner, (dict, list)) and inner:
                out.append(f"{pad}{key}:\n{yaml(inner, indent + 1)}")
            else:
                out.append(f"{pad}{key}: {json.dumps(inner)}\n")
    else:
        for inner in value:
            if isinstance(inner, dict):
                out.append(f"{pad}- {yaml(inner, indent + 1).lstrip()}")
            else:
                out.append(f"{pad}- {json.dumps(inner)}\n")
    return "".join(out)


class Api:
    """etcd and kube-apiserver of our own."""

    def __init__(self, folder):
        client, peer, self.port = free_port(), free_port(), free_port()
        client, peer = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
        self.etcd = Process(
            [ASSETS / "etcd", "--data-dir", folder / "etcd", "--unsafe-no-fsync",
             "--listen-client-urls", client, "--advertise-client-urls", client,
             "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
             "--initial-cluster", f"default={peer}"], folder / "etcd.log")
        key = folder / "sa.key"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        (folder / "tokens.csv").write_text('admin-token,admin,admin,"system:masters"\n')
        self.server = Process(
            [ASSETS / "kube-apiserver", f"--etcd-servers={client}", f"--cert-dir={folder}",
             "--bind-address=127.0.0.1", f"--secure-port={self.port}",
             "--service-cluster-ip-range=10.96.0.0/12", f"--service-account-key-file={key}",
             f"--service-account-signing-key-file={key}",
             "--service-account-issuer=https://kubernetes.default.svc",
             "--disable-admission-plugins=ServiceAccount", "--authorization-mode=RBAC",
             f"--token-auth-file={folder / 'tokens.csv'}"], folder / "apiserver.log")
        self.kubeconfig = folder / "kubeconfig"
        self.kubeconfig.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "bench",
            "clusters": [{"name": "bench", "cluster": {
                "server": f"https://127.0.0.1:{self.port}",
                "certificate-authority": str(folder / "apiserver.crt")}}],
            "users": [{"name": "admin", "user": {"token": "admin-token"}}],
            "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "admin"}}],
        }))
        until("the API server", lambda: self.ask("GET", "/readyz")[0] == 200, pause=0.2)

    def connect(self):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return http.client.HTTPSConnection("127.0.0.1", self.port, context=context, timeout=30)

    def ask(self, method, path, body=None, connection=None):
        try:
            connection = connection or self.connect()
            connection.request(method, path, json.dumps(body) if body else None, {
                "Authorization": "Bearer admin-token", "Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except OSError as error:
            return 0, str(error)

    def create(self, numbers):
        connection = self.connect()
        for number in numbers:
            for path, body in (("/api/v1/namespaces/default/services", service(number)),
                               (SLICES, slice_of(number))):
                status, text = self.ask("POST", path, body, connection)
                if status != 201:
                    sys.exit(f"POST {path}: {status} {text}")


SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"


def bootstrap(folder, grpc, admin):
    sample = (ROOT / "examples/envoy/standalone.yaml").read_text()
    sample = sample.replace("istio-pilot.istio-system", "127.0.0.1").replace("0.0.0.0", "127.0.0.1")
    sample = re.sub(r"port_value: 15010", f"port_value: {grpc}", sample)
    sample = re.sub(r"port_value: 15000", f"port_value: {admin}", sample)
    sample = re.sub(r"LISTEN_PORT: 15080", f"LISTEN_PORT: {free_port()}", sample)
    (folder / "envoy.yaml").write_text(sample)
    return folder / "envoy.yaml"


def convergence(folder, api, server):
    admin = free_port()
    config = bootstrap(folder, server.port("grpc"), admin)
    with Process([ENVOY, "-c", config, "--disable-hot-restart", "--concurrency", "1", "-l", "warn"],
                 folder / "envoy.log"):
        until("Envoy", lambda: get(admin, "/ready")[0] == 200)
        connection, took = api.connect(), []
        for number in range(CHANGES):
            body = slice_of(0, number + 1)
            address = body["endpoints"][0]["addresses"][0]
            begun = time.monotonic()
            status, text = api.ask("PUT", f"{SLICES}/svc-0-slice", body, connection)
            if status != 200:
                sys.exit(f"PUT: {status} {text}")
            shown = f"::{address}:9080::"
            until("Envoy shows it", lambda: shown in get(admin, "/clusters?filter=svc-0.default")[1], pause=0)
            took.append((time.monotonic() - begun) * 1000)
            time.sleep(0.3)
    took.sort()
    print(f"change API server to Envoy's admin, {CHANGES} times, PUT and poll included: "
          f"median {statistics.median(took):.1f} ms, p99 {took[int(len(took) * 0.99) - 1]:.1f} ms, "
          f"max {took[-1]:.1f} ms", flush=True)


def main():
    with tempfile.TemporaryDirectory() as folder:
        from_manifests(pathlib.Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        api = Api(folder)
        environment = dict(os.environ, KUBECONFIG=str(api.kubeconfig))
        with api.etcd, api.server:
            api.create([0])
            with Pilothouse(folder, "--source", "kube", env=environment) as server:
                server.ready()
                convergence(folder, api, server)
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                step = SERVICES // 8
                parts = [range(max(1, at * step), (at + 1) * step) for at in range(8)]
                list(pool.map(api.create, parts))
            with Pilothouse(folder, "--source", "kube", env=environment) as server:
                report("kube", server, server.ready())


if __name__ == "__main__":
    main()
