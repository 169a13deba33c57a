//! manifests/secure by a real API server: that it takes all of it, cert-manager's objects by their own
//! schema; that policies name the ports that are used; what Pod Security says to pods with a sidecar.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokio::process::Command;

use super::ApiServer;
use pilothouse_testkit::{repository, until};

const RESTRICTED: &str = "pod-security.kubernetes.io/enforce=restricted";

fn path(name: &str) -> String {
    repository().join(name).display().to_string()
}

/// The custom resources of cert-manager, from its Go module at the version that tools/cert-manager pins.
async fn cert_manager() -> PathBuf {
    let module = "github.com/cert-manager/cert-manager";
    let output = Command::new("go")
        .args(["mod", "download", "-json", module])
        .current_dir(repository().join("tools/cert-manager"))
        .output()
        .await
        .expect("go is installed");
    let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let folder = said["Dir"].as_str().unwrap_or_else(|| panic!("{output:?}"));
    Path::new(folder).join("deploy/crds")
}

impl ApiServer {
    /// With the namespace of the control plane, of which Pod Security wants `restricted`.
    async fn restricted(flags: &[&str]) -> Self {
        let server = Self::start(flags).await;
        server.admin.run(&["create", "namespace", "istio-system"]).await;
        server.admin.run(&["label", "namespace", "istio-system", RESTRICTED]).await;
        server
    }

    /// What a kustomization makes, as the API server fills it in; nothing is kept.
    async fn taken(&self, kustomization: &str) -> Vec<Value> {
        let list = self
            .admin
            .json(&["apply", "--server-side", "--dry-run=server", "-k", &path(kustomization)])
            .await;
        match list["items"].as_array() {
            Some(items) => items.clone(),
            None => vec![list],
        }
    }

    /// Whether a pod would be admitted, or why not.
    async fn admits(&self, namespace: &str, pod: &Value) -> Result<String, String> {
        let file = self.dir.path().join("pod.json");
        std::fs::write(&file, pod.to_string()).unwrap();
        let file = file.display().to_string();
        self.admin.attempt(&["-n", namespace, "create", "--dry-run=server", "-f", &file]).await
    }
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> impl Iterator<Item = &'a Value> {
    objects.iter().filter(move |object| object["kind"] == kind)
}

#[tokio::test]
#[ignore = "needs an API server: make test-cluster"]
async fn the_api_server_takes_what_secures_the_control_plane() {
    let server = ApiServer::restricted(&[]).await;
    let crds = cert_manager().await;
    for name in ["certificates", "issuers", "clusterissuers"] {
        let file = crds.join(format!("cert-manager.io_{name}.yaml"));
        server.admin.run(&["apply", "--server-side", "-f", &file.display().to_string()]).await;
        let established = ["wait", "--for=condition=established", "--timeout=60s"];
        let crd = format!("crd/{name}.cert-manager.io");
        server.admin.run(&[&established[..], &[&crd]].concat()).await;
    }
    server.admin.run(&["create", "namespace", "cert-manager"]).await;
    // What is established is not yet in all that kubectl asks for.
    let overlay = path("manifests/secure/cert-manager");
    let apply = ["apply", "--server-side", "--dry-run=server", "-k", &overlay];
    until("cert-manager's kinds", async || server.admin.attempt(&apply).await).await;

    let overlays = [
        "manifests",
        "manifests/secure",
        "manifests/secure/cert-manager",
        "manifests/secure/injector",
        "manifests/injector-cert-manager",
    ];
    for overlay in overlays {
        let objects = server.taken(overlay).await;
        for deployment in of_kind(&objects, "Deployment") {
            let template = &deployment["spec"]["template"];
            let mut pod = json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": template["metadata"], "spec": template["spec"],
            });
            pod["metadata"]["name"] = "one".into();
            server.admits("istio-system", &pod).await.unwrap();
            // The label is in force: a pod that is not restricted would be refused.
            pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] =
                true.into();
            let refused = server.admits("istio-system", &pod).await.unwrap_err();
            assert!(refused.contains("violates PodSecurity"), "{refused}");
        }
    }
    for file in ["cert-manager/proxy.yaml", "network-policies/plaintext.yaml"] {
        let file = path(&format!("manifests/secure/{file}"));
        server.admin.run(&["apply", "--server-side", "--dry-run=server", "-f", &file]).await;
    }

    // The schema is in force as well.
    let objects = server.taken("manifests/secure/cert-manager").await;
    let mut certificate = of_kind(&objects, "Certificate").next().unwrap().clone();
    certificate["metadata"] = json!({ "name": "wrong", "namespace": "istio-system" });
    certificate["spec"]["dnsNames"] = "istio-pilot".into();
    let refused = server.admits("istio-system", &certificate).await.unwrap_err();
    assert!(refused.contains("spec.dnsNames"), "{refused}");
}

/// Ports of a Deployment's pods that no policy names, and those that one names and no pod has.
fn unlike(deployment: &Value, policies: &[Value]) -> (BTreeSet<u64>, BTreeSet<u64>) {
    let template = &deployment["spec"]["template"];
    let listens: BTreeSet<u64> = template["spec"]["containers"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|container| container["ports"].as_array().into_iter().flatten())
        .filter_map(|port| port["containerPort"].as_u64())
        .collect();
    let selects = |policy: &&Value| {
        let wanted = policy["spec"]["podSelector"]["matchLabels"].as_object().unwrap();
        wanted.iter().all(|(name, value)| template["metadata"]["labels"][name] == *value)
    };
    let named: BTreeSet<u64> = policies
        .iter()
        .filter(selects)
        .flat_map(|policy| policy["spec"]["ingress"].as_array().into_iter().flatten())
        .flat_map(|rule| rule["ports"].as_array().into_iter().flatten())
        .filter_map(|port| port["port"].as_u64())
        .collect();
    (&listens - &named, &named - &listens)
}

#[tokio::test]
#[ignore = "needs an API server: make test-cluster"]
async fn policies_name_the_ports_that_pods_have() {
    let server = ApiServer::restricted(&[]).await;
    let policies = server.taken("manifests/secure/network-policies").await;
    let secure = server.taken("manifests/secure").await;
    let pilot = of_kind(&secure, "Deployment").next().unwrap();
    assert_eq!(unlike(pilot, &policies), ([].into(), [].into()));

    // With 15010 open to sidecars, there is one more.
    let plain = server.taken("manifests").await;
    let pilot = of_kind(&plain, "Deployment").next().unwrap();
    assert_eq!(unlike(pilot, &policies), ([15010].into(), [15012].into()));
    let file = path("manifests/secure/network-policies/plaintext.yaml");
    let plaintext =
        server.admin.json(&["apply", "--server-side", "--dry-run=server", "-f", &file]).await;
    let with_plaintext = [&policies[..], &[plaintext]].concat();
    assert_eq!(unlike(pilot, &with_plaintext), ([].into(), [15012].into()));

    let injector = server.taken("manifests/injector").await;
    let injector = of_kind(&injector, "Deployment").next().unwrap();
    assert_eq!(unlike(injector, &policies), ([].into(), [].into()));
}

/// What `pilothouse inject` makes of a pod.
async fn injected(server: &ApiServer, pod: &str, flags: &[&str]) -> Value {
    let file = server.dir.path().join("injected");
    std::fs::write(&file, pod).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_pilothouse"))
        .args(["inject", "-f"])
        .arg(&file)
        .args(flags)
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    std::fs::write(&file, output.stdout).unwrap();
    // It prints YAML; kubectl makes JSON of it, and adds a namespace.
    let file = file.display().to_string();
    let mut pod = server.admin.json(&["create", "--dry-run=client", "-f", &file]).await;
    pod["metadata"].as_object_mut().unwrap().remove("namespace");
    pod
}

/// A pod that is `restricted` itself.
fn restricted_pod(annotations: &Value) -> String {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "app", "annotations": annotations },
        "spec": {
            // A controller would set it, which does not run here; a token wants it.
            "serviceAccountName": "default",
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": { "type": "RuntimeDefault" },
            },
            "containers": [{
                "name": "app", "image": "app:1",
                "securityContext": {
                    "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] },
                },
            }],
        },
    });
    pod.to_string()
}

#[tokio::test]
#[ignore = "needs an API server: make test-cluster"]
async fn what_pod_security_says_to_pods_with_a_sidecar() {
    let server = ApiServer::start(&[]).await;
    let levels = ["restricted", "baseline", "privileged"];
    for level in levels {
        server.admin.run(&["create", "namespace", level]).await;
        let label = format!("pod-security.kubernetes.io/enforce={level}");
        server.admin.run(&["label", "namespace", level, &label]).await;
    }
    let unbound = json!({ "sidecar.istio.io/interceptionMode": "NONE" });
    for tls in ["off", "certificate", "token"] {
        for native in [&[][..], &["--native-sidecar"]] {
            let flags = [&["--tls", tls][..], native].concat();
            let captured = injected(&server, &restricted_pod(&json!({})), &flags).await;
            let bound = injected(&server, &restricted_pod(&unbound), &flags).await;
            for level in levels {
                server.admits(level, &bound).await.unwrap();
                match server.admits(level, &captured).await {
                    Ok(_) => assert_eq!(level, "privileged", "{flags:?}"),
                    Err(error) => {
                        assert_ne!(level, "privileged", "{flags:?}: {error}");
                        let words =
                            ["violates PodSecurity", "istio-init", "\"NET_ADMIN\", \"NET_RAW\""];
                        assert!(
                            words.iter().all(|word| error.contains(word)),
                            "{flags:?}: {error}"
                        );
                        // Nothing but istio-init is in the way.
                        assert!(!error.contains("istio-proxy"), "{flags:?}: {error}");
                    }
                }
            }
        }
    }
}

#[tokio::test]
#[ignore = "needs an API server: make test-cluster"]
async fn a_projected_pod_certificate_is_mounted_as_documented() {
    let page = std::fs::read_to_string(repository().join("docs/security.md")).unwrap();
    let example = page
        .split("```yaml\n")
        .filter_map(|rest| rest.split("```").next())
        .find(|block| block.contains("podCertificate:"))
        .expect("docs/security.md has the example");
    let flags = [
        "--feature-gates=PodCertificateRequest=true",
        "--runtime-config=certificates.k8s.io/v1beta1=true",
    ];
    let server = ApiServer::start(&flags).await;
    let pod = injected(&server, example, &[]).await;
    let file = server.dir.path().join("pod.json");
    std::fs::write(&file, pod.to_string()).unwrap();
    let file = file.display().to_string();
    let taken = server.admin.json(&["create", "--dry-run=server", "-f", &file]).await;
    let volumes = taken["spec"]["volumes"].as_array().unwrap();
    let volume = volumes.iter().find(|volume| volume["name"] == "pod-certificate");
    let source = &volume.unwrap_or_else(|| panic!("{taken}"))["projected"]["sources"][0];
    // An API server that does not know it would leave it out.
    assert_eq!(source["podCertificate"]["certificateChainPath"], "tls.crt", "{taken}");
    let proxy = &taken["spec"]["containers"][1];
    let mounts = proxy["volumeMounts"].as_array().unwrap();
    let tls = mounts.iter().any(|mount| mount["mountPath"] == "/var/run/secrets/pilothouse/tls");
    assert!(tls && proxy["name"] == "istio-proxy", "{taken}");
}
