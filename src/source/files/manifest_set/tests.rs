use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use tempfile::TempDir;

use super::super::parse::MAX_MESSAGES;
use super::file::HALF_WRITTEN;
use super::*;

mod routes;

/// A folder of manifests and its reader.
struct Bed {
    dir: TempDir,
    manifests: ManifestSet,
    now: Instant,
}

fn manifests(paths: Vec<PathBuf>) -> ManifestSet {
    ManifestSet::new(FileSourceConfig { paths, namespaces: Vec::new() })
}

impl Bed {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let manifests = manifests(vec![dir.path().to_owned()]);
        let bed = Self { dir, manifests, now: Instant::now() };
        for (name, text) in files {
            bed.write(name, text);
        }
        bed
    }

    fn write(&self, name: &str, text: &str) {
        let draft = self.dir.path().join(".draft");
        fs::write(&draft, text).expect("a written file");
        fs::rename(draft, self.dir.path().join(name)).expect("renamed");
    }

    /// As a shell's `>` does: the old file, emptied and filled anew.
    fn overwrite(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join(name), text).expect("a written file");
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.dir.path().join(name)).expect("a removed file");
    }

    fn read(&mut self) -> Seen {
        let outcome = self.manifests.read(self.now);
        let prefix = format!("{}/", self.dir.path().display());
        let short = |all: &BTreeMap<String, String>| -> Vec<String> {
            all.iter().map(|(at, why)| format!("{at}: {why}").replace(&prefix, "")).collect()
        };
        Seen { rejected: short(&outcome.rejected), notes: short(&outcome.notes), outcome }
    }
}

#[derive(Debug)]
struct Seen {
    outcome: ReadOutcome,
    rejected: Vec<String>,
    notes: Vec<String>,
}

impl Seen {
    /// `name:port`s, sorted.
    fn services(&self) -> Vec<String> {
        let services = &self.outcome.lists.services;
        let mut names: Vec<_> =
            services.iter().map(|one| format!("{}:{}", one.key.name, one.ports[0].port)).collect();
        names.sort();
        names
    }

    fn slices(&self) -> Vec<String> {
        let mut names: Vec<_> =
            self.outcome.lists.slices.iter().map(|slice| slice.name.to_string()).collect();
        names.sort();
        names
    }
}

fn service(name: &str, ip: &str, port: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n  clusterIP: {ip}\n  \
         ports:\n  - port: {port}\n"
    )
}

fn slice(name: &str, owner: &str, address: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\nmetadata:\n  \
         name: {name}\n  labels:\n    kubernetes.io/service-name: {owner}\nports:\n- port: 9080\n\
         endpoints:\n- addresses: [{address}]\n"
    )
}

fn endpoints(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Endpoints\nmetadata:\n  name: {name}\nsubsets:\n- addresses:\n  \
         - ip: 10.0.0.9\n  ports:\n  - port: 9080\n"
    )
}

#[test]
fn several_documents_lists_json_and_other_kinds() {
    let two = format!(
        "# a comment\n---\n{}---\n\n---\n{}",
        service("a", "10.96.0.1", "80"),
        slice("a-1", "a", "10.0.0.1")
    );
    let list = r#"{"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "ServiceList", "items": [{"metadata": {"name": "b"},
            "spec": {"clusterIP": "10.96.0.2", "ports": [{"port": 81}]}}]},
        {"apiVersion": "v1", "kind": "Secret"}, {"apiVersion": "v1", "kind": "Secret"},
        {"apiVersion": "serving.knative.dev/v1", "kind": "Service"}]}"#;
    let mut bed = Bed::new(&[
        ("two.yaml", &two),
        ("list.json", list),
        ("crlf.yml", &service("c", "None", "82").replace('\n', "\r\n")),
        ("kustomization.yaml", "resources: [two.yaml]\n"),
        ("README.md", "# not a manifest"),
        (".hidden.yaml", "nonsense: ["),
        ("empty.yaml", ""),
    ]);
    let seen = bed.read();
    assert_eq!(seen.rejected, [""; 0]);
    assert_eq!(seen.services(), ["a:80", "b:81", "c:82"]);
    assert_eq!(seen.slices(), ["a-1"]);
    let skipped: Vec<_> =
        seen.outcome.skipped.iter().map(|(kind, n)| (kind.as_str(), *n)).collect();
    assert_eq!(skipped, [("Kustomization", 1), ("Secret", 2), ("Service", 1)]);
    assert!(seen.outcome.complete && seen.outcome.changed);
    assert!(!bed.read().outcome.changed, "nothing was written since");
}

#[test]
fn errors_name_the_file_the_document_and_the_field() {
    let cases = [
        ("a", service("x", "10.96.0.1", "70000"), "spec.ports[0].port: 70000 is no port number"),
        ("b", service("x", "10.96.0.1", "0"), "spec.ports[0].port: 0 is no port number"),
        ("c", service("x", "10.96.0.1", "http"), "spec.ports[0].port: invalid type: string"),
        (
            "d",
            service("x", "10.96.0.999", "80"),
            "spec.clusterIP: \"10.96.0.999\" is no IP address",
        ),
        ("e", service("X.y", "10.96.0.1", "80"), "metadata.name: \"X.y\" is no DNS label"),
        (
            "f",
            slice("x", "x", "reviews"),
            "endpoints[0].addresses[0]: \"reviews\" is no IP address",
        ),
        (
            "g",
            "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {}\n".into(),
            "spec.ports: a service needs",
        ),
        ("h", "apiVersion: v1\nkind: Service\nmetadata: {name: x}\n".into(), "spec: missing"),
        ("i", "apiVersion: v1\nkind: Service\nmetadata: []\n".into(), "metadata: invalid type"),
        (
            "j",
            slice("x", "x", "10.0.0.1").replace("k8s.io/v1", "k8s.io/v1beta1"),
            "apiVersion: \"discovery.k8s.io/v1beta1\" is not supported; write discovery.k8s.io/v1",
        ),
        ("k", "metadata: {name: x}\n".into(), "kind: missing"),
        ("l", "just text\n".into(), "document: not a Kubernetes object"),
        ("m", "kind: Service\nmetadata: {name: x}\n".into(), "apiVersion: missing"),
    ];
    for (name, text, expected) in cases {
        let file = format!("{name}.yaml");
        let good = service("good", "10.96.0.7", "80");
        let mut bed = Bed::new(&[(&file, &format!("{good}---\n{text}"))]);
        let seen = bed.read();
        assert_eq!(seen.services(), ["good:80"], "a bad document rejects only itself: {expected}");
        assert_eq!(seen.rejected.len(), 1, "{:?}", seen.rejected);
        let error = &seen.rejected[0];
        assert!(error.starts_with(&format!("{file}, document 2 (line 10)")), "{error}");
        assert!(error.contains(expected), "{error} lacks {expected}");
    }
    let mut bed = Bed::new(&[("one.yaml", &service("x", "10.96.0.1", "0"))]);
    let error = &bed.read().rejected[0];
    assert!(
        error.starts_with("one.yaml, document 1 (line 1), Service default/x: spec."),
        "{error}"
    );
}

#[test]
fn an_error_in_a_list_names_the_item() {
    let items = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Service\n  metadata: \
                 {name: a}\n  spec: {ports: [{port: 80}]}\n- nonsense\n";
    let mut bed = Bed::new(&[("list.yaml", items), ("bare.yaml", "apiVersion: v1\nkind: List\n")]);
    let seen = bed.read();
    assert_eq!(seen.services(), ["a:80"]);
    assert!(seen.rejected[0].starts_with("bare.yaml, document 1 (line 1): items: missing"));
    assert!(seen.rejected[1].starts_with("list.yaml, document 1 (line 1), items[1]: document: "));
}

#[test]
fn a_bad_document_keeps_its_last_good_version() {
    let both = |port| service("a", "10.96.0.1", port) + "---\n" + &service("b", "10.96.0.2", "80");
    let mut bed = Bed::new(&[("x.yaml", &both("80"))]);
    assert_eq!(bed.read().services(), ["a:80", "b:80"]);
    bed.write("x.yaml", &both("70000").replace("port: 80", "port: 90"));
    let seen = bed.read();
    assert_eq!(seen.services(), ["a:80", "b:90"]);
    assert!(seen.rejected[0].ends_with("(the last good version is still served)"));
    // And once more: the version that is kept is still known.
    bed.write("x.yaml", &both("70001"));
    assert_eq!(bed.read().services(), ["a:80", "b:80"]);
    bed.write("x.yaml", &both("81"));
    let seen = bed.read();
    assert_eq!(seen.services(), ["a:81", "b:80"]);
    assert!(seen.rejected.is_empty());
}

#[test]
fn a_syntax_error_keeps_the_whole_file_and_hurts_no_other() {
    let a = service("a", "10.96.0.1", "80");
    let mut bed = Bed::new(&[("a.yaml", &a), ("b.yaml", &service("b", "10.96.0.2", "80"))]);
    bed.read();
    bed.write("a.yaml", &format!("{}---\nkind: [unclosed\n", service("a", "10.96.0.1", "81")));
    bed.write("b.yaml", &service("b", "10.96.0.2", "81"));
    let seen = bed.read();
    assert_eq!(seen.services(), ["a:80", "b:81"]);
    assert_eq!(seen.rejected.len(), 1);
    let error = &seen.rejected[0];
    assert!(error.starts_with("a.yaml: document 2: ") && error.contains("line 10"), "{error}");
    assert!(error.ends_with("(the last good version is still served)"), "{error}");
    bed.write("a.yaml", "\t{");
    assert_eq!(bed.read().services(), ["a:80", "b:81"]);
    bed.write("a.yaml", &a);
    assert!(bed.read().rejected.is_empty());
    let mut json = Bed::new(&[("a.json", "{\"kind\": \n")]);
    assert!(json.read().rejected[0].contains("line 2 column 0"));
}

#[test]
fn a_file_overwritten_with_garbage_keeps_its_state() {
    let mut bed = Bed::new(&[("a.yaml", &service("a", "10.96.0.1", "80"))]);
    bed.read();
    let garbage: [&[u8]; 4] =
        [b"kind: \xff\n", &[0xff, 0xfe, 0x00, 0xd8], b"hello\n", b"- kind: x\n"];
    for bytes in garbage {
        fs::write(bed.dir.path().join("a.yaml"), bytes).expect("a written file");
        bed.read();
        bed.pass(HALF_WRITTEN);
        let seen = bed.read();
        assert_eq!((seen.services(), seen.rejected.len()), (vec!["a:80".to_owned()], 1));
    }
    bed.write("a.yaml", &service("b", "10.96.0.1", "80"));
    assert_eq!(bed.read().services(), ["b:80"]);
}

#[test]
fn a_name_that_became_bad_keeps_what_it_was() {
    let (a, b) = (service("a", "10.96.0.1", "80"), service("b", "10.96.0.2", "80"));
    let mut bed = Bed::new(&[("x.yaml", &format!("{a}---\n{b}"))]);
    bed.read();
    bed.write("x.yaml", &format!("{}---\n{b}", a.replace("name: a", "name: A.b")));
    let seen = bed.read();
    assert_eq!(seen.services(), ["a:80", "b:80"]);
    assert!(seen.notes[0].contains("kept until its errors are gone"), "{:?}", seen.notes);
    bed.write("x.yaml", &b);
    let seen = bed.read();
    assert_eq!((seen.services(), seen.notes.len()), (vec!["b:80".to_owned()], 0));
}

#[test]
fn a_deleted_file_and_a_deleted_document_take_their_objects_along() {
    let (a, b) = (service("a", "10.96.0.1", "80"), service("b", "10.96.0.2", "80"));
    let mut bed =
        Bed::new(&[("ab.yaml", &format!("{a}---\n{b}")), ("c.yaml", &service("c", "None", "80"))]);
    assert_eq!(bed.read().services().len(), 3);
    bed.remove("c.yaml");
    assert_eq!(bed.read().services(), ["a:80", "b:80"]);
    bed.write("ab.yaml", &b);
    assert_eq!(bed.read().services(), ["b:80"]);
}

#[test]
fn of_two_with_one_name_the_first_path_wins() {
    let mut bed = Bed::new(&[
        ("b.yaml", &service("x", "10.96.0.2", "82")),
        ("a.yaml", &(service("x", "10.96.0.1", "81") + "---\n" + &service("x", "10.96.0.3", "83"))),
    ]);
    let seen = bed.read();
    assert_eq!(seen.services(), ["x:81"]);
    assert_eq!(seen.rejected, [
        "a.yaml, document 2 (line 10), Service default/x: Service default/x is defined already in \
         a.yaml, document 1 (line 1), Service default/x; remove one of the two",
        "b.yaml, document 1 (line 1), Service default/x: Service default/x is defined already in \
         a.yaml, document 1 (line 1), Service default/x; remove one of the two",
    ].map(str::to_owned).map(|text| text.replace(&format!("{}/", bed.dir.path().display()), "")));
    bed.remove("a.yaml");
    assert_eq!(bed.read().services(), ["x:82"]);
}

#[test]
fn of_two_with_one_address_the_first_path_wins() {
    let mut bed = Bed::new(&[
        ("a.yaml", &service("a", "10.96.0.1", "80")),
        ("b.yaml", &service("b", "10.96.0.1", "80")),
        ("c.yaml", &service("c", "None", "80")),
        ("d.yaml", &service("d", "None", "80")),
    ]);
    let seen = bed.read();
    assert_eq!(seen.services(), ["a:80", "c:80", "d:80"]);
    assert_eq!(seen.rejected.len(), 1);
    let expected = "b.yaml, document 1 (line 1), Service default/b: spec.clusterIP: 10.96.0.1 \
                    belongs already to a.yaml, document 1 (line 1), Service default/a";
    assert_eq!(seen.rejected[0], expected);
}

#[test]
fn slices_win_over_endpoints_of_the_same_service() {
    let mut bed = Bed::new(&[("e.yaml", &(endpoints("a") + "---\n" + &endpoints("b")))]);
    assert_eq!(bed.read().slices(), ["endpoints/a", "endpoints/b"]);
    bed.write("s.yaml", &slice("b-1", "b", "10.0.0.1"));
    let seen = bed.read();
    assert_eq!(seen.slices(), ["b-1", "endpoints/a"]);
    assert_eq!(seen.notes.len(), 1);
    assert!(
        seen.notes[0].starts_with("e.yaml, document 2 (line 11), Endpoints default/b: not used")
    );
}

#[test]
fn a_slice_without_a_service_is_noted() {
    let text = slice("a-1", "a", "10.0.0.1").replace("kubernetes.io/service-name", "app");
    let seen = Bed::new(&[("s.yaml", &text)]).read();
    assert!(seen.slices().is_empty() && seen.rejected.is_empty());
    assert!(seen.notes[0].contains("no label kubernetes.io/service-name"), "{:?}", seen.notes);
}

#[test]
fn a_path_that_vanishes_keeps_its_state_and_an_empty_folder_is_fine() {
    let mut bed = Bed::new(&[]);
    let seen = bed.read();
    assert!(seen.outcome.complete && seen.outcome.changed && seen.services().is_empty());
    let file = bed.dir.path().join("one.yaml");
    bed.manifests = manifests(vec![file.clone()]);
    let seen = bed.read();
    assert!(!seen.outcome.complete && seen.outcome.paths[0].1.is_err());
    bed.write("one.yaml", &service("a", "10.96.0.1", "80"));
    let seen = bed.read();
    assert!(seen.outcome.complete);
    assert_eq!(seen.services(), ["a:80"]);
    bed.remove("one.yaml");
    let seen = bed.read();
    assert!(!seen.outcome.changed, "what is served stays as it is");
    let error = seen.outcome.paths[0].1.as_ref().unwrap_err();
    assert!(error.contains("No such file") && error.ends_with("is still served"), "{error}");
    bed.write("one.yaml", &service("a", "10.96.0.1", "81"));
    assert_eq!(bed.read().services(), ["a:81"]);
}

#[test]
fn a_file_given_twice_is_read_once() {
    let mut bed = Bed::new(&[("a.yaml", &service("a", "10.96.0.1", "80"))]);
    let (all, file) = (bed.dir.path().to_owned(), bed.dir.path().join("./a.yaml"));
    bed.manifests = manifests(vec![all, file]);
    let seen = bed.read();
    assert_eq!((seen.services().len(), seen.rejected.len()), (1, 0));
}

#[test]
fn a_thousand_bad_files_hide_no_good_one() {
    let mut bed = Bed::new(&[("good.yaml", &service("good", "10.96.0.1", "80"))]);
    for n in 0..1000 {
        let text = if n % 2 == 0 { "a: [".to_owned() } else { service("bad", "None", "0") };
        bed.write(&format!("bad-{n:04}.yaml"), &text);
    }
    let seen = bed.read();
    assert_eq!(seen.services(), ["good:80"]);
    assert_eq!(seen.rejected.len(), 1000);
}

/// traefik#10573.
#[test]
fn a_name_that_leads_to_no_file_keeps_its_state_and_says_why() {
    let mut bed = Bed::new(&[("real.txt", &service("a", "10.96.0.1", "80"))]);
    let folder = bed.dir.path().to_owned();
    let path = |name: &str| folder.join(name);
    symlink("real.txt", path("link.yaml")).expect("a link");
    assert_eq!(bed.read().services(), ["a:80"]);

    fs::rename(path("real.txt"), path("moved.txt")).expect("moved");
    let seen = bed.read();
    assert_eq!(seen.services(), ["a:80"]);
    assert_eq!(
        seen.rejected,
        [
            "link.yaml: it is a symlink to real.txt: No such file or directory (os error 2) (the last \
          good version is still served)"
        ]
    );
    assert!(!bed.read().outcome.changed, "said once");

    fs::remove_file(path("link.yaml")).expect("removed");
    symlink("link.yaml", path("link.yaml")).expect("a link to itself");
    let seen = bed.read();
    assert_eq!(seen.services(), ["a:80"]);
    assert!(seen.rejected[0].contains("symlink to link.yaml: Too many levels"), "{seen:?}");

    fs::remove_file(path("link.yaml")).expect("removed");
    let made = std::process::Command::new("mkfifo").arg(path("link.yaml")).status();
    assert!(made.expect("mkfifo").success());
    let seen = bed.read();
    assert_eq!(seen.services(), ["a:80"]);
    assert!(seen.rejected[0].contains("link.yaml: it is no file but a pipe"), "{seen:?}");

    fs::remove_file(path("link.yaml")).expect("removed");
    let seen = bed.read();
    assert!(seen.services().is_empty() && seen.rejected.is_empty(), "{seen:?}");
}

#[test]
fn a_file_that_is_emptied_and_slowly_written_loses_nothing_meanwhile() {
    let (a, b) = (service("a", "10.96.0.1", "80"), service("b", "10.96.0.2", "80"));
    let whole = format!("{a}---\n{b}");
    let mut bed = Bed::new(&[("x.yaml", &whole)]);
    bed.read();
    bed.overwrite("x.yaml", "");
    let seen = bed.read();
    assert_eq!(seen.services(), ["a:80", "b:80"]);
    assert!(
        seen.rejected[0].contains("it is empty") && seen.rejected[0].contains("remove the file")
    );
    // As slowly as it likes, as long as it goes on: each part of it is legal by itself.
    for end in [a.len(), a.len() + 4, whole.len() - 1] {
        bed.overwrite("x.yaml", &whole[..end]);
        let seen = bed.read();
        assert!(seen.outcome.read_again_at.is_some() && !seen.outcome.changed, "{seen:?}");
        bed.pass(HALF_WRITTEN - Duration::from_millis(1));
        assert!(!bed.read().outcome.changed, "it waits for the rest");
    }
    bed.overwrite("x.yaml", &whole);
    let seen = bed.read();
    assert_eq!((seen.services().len(), seen.rejected.len()), (2, 0));
    assert_eq!(seen.outcome.read_again_at, None);
}

#[test]
fn a_file_that_stays_shorter_is_taken_at_its_word() {
    let (a, b) = (service("a", "10.96.0.1", "80"), service("b", "10.96.0.2", "80"));
    let mut bed = Bed::new(&[("x.yaml", &format!("{a}---\n{b}"))]);
    bed.read();
    bed.overwrite("x.yaml", &a);
    let seen = bed.read();
    let until = seen.outcome.read_again_at.expect("it is waited for");
    bed.pass(until - bed.now);
    assert_eq!(bed.read().services(), ["a:80"]);
    // Longer, or another file in its place: nothing is missing from that.
    bed.overwrite("x.yaml", &format!("{a}---\n{b}"));
    assert_eq!(bed.read().services(), ["a:80", "b:80"]);
    bed.write("x.yaml", &b);
    assert_eq!(bed.read().services(), ["b:80"]);
    bed.write("x.yaml", "# nothing\n");
    assert!(bed.read().services().is_empty(), "a file without objects that is not empty");
}

#[test]
fn subfolders_and_an_empty_folder_are_told() {
    let mut bed = Bed::new(&[]);
    let warning = |seen: &Seen| seen.outcome.warnings.values().next().cloned().unwrap_or_default();
    assert!(warning(&bed.read()).contains("no .yaml, .yml or .json file"));
    bed.write("a.yaml", &service("a", "10.96.0.1", "80"));
    assert_eq!(warning(&bed.read()), "");
    for name in ["one", "two.yaml", "..2026_11_26"] {
        fs::create_dir(bed.dir.path().join(name)).expect("a folder");
    }
    let seen = bed.read();
    assert!(seen.outcome.changed, "it is news");
    assert!(warning(&seen).contains("subfolders are not read (one, two.yaml)"), "{seen:?}");
    assert!(!bed.read().outcome.changed, "and no news twice");
}

#[test]
fn objects_of_other_namespaces_are_passed_over() {
    let of = |namespace: &str| {
        let name = format!("name: a\n  namespace: {namespace}");
        service("a", "None", "80").replace("name: a", &name)
    };
    let text = [of("shop"), of("bank"), service("b", "None", "81")].join("---\n");
    let mut bed = Bed::new(&[("x.yaml", &text)]);
    bed.manifests = ManifestSet::new(FileSourceConfig {
        paths: vec![bed.dir.path().to_owned()],
        namespaces: vec!["shop".to_owned(), "default".to_owned()],
    });
    let seen = bed.read();
    assert_eq!(seen.services(), ["a:80", "b:81"]);
    assert_eq!(seen.outcome.skipped["Service of another namespace"], 1);
}

/// Each level repeats the one before it ten times.
#[test]
fn a_small_file_cannot_become_a_large_one() {
    let mut aliases = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    let mut merges = "m0: &m0 {k: v}\n".to_owned();
    for level in 1..8 {
        let below = level - 1;
        aliases += &format!("a{level}: &a{level} [{}]\n", vec![format!("*a{below}"); 10].join(","));
        let keys: String = (0..10).map(|n| format!(", k{level}_{n}: {{<<: *m{below}}}")).collect();
        merges += &format!("m{level}: &m{level} {{k: v{keys}}}\n");
    }
    for (name, bomb) in [("aliases.yaml", aliases), ("merges.yaml", merges)] {
        let mut bed = Bed::new(&[(name, &bomb)]);
        let seen = bed.read();
        assert_eq!(seen.rejected.len(), 1, "{seen:?}");
        assert!(seen.rejected[0].contains("limit"), "{seen:?}");
    }
}

#[test]
fn a_helm_template_is_told_from_a_mistake() {
    let unrendered = service("a", "None", "{{ .Values.port }}");
    let named = service("\"{{ .Release.Name }}\"", "None", "80");
    for text in [unrendered, named] {
        let seen = Bed::new(&[("x.yaml", &text)]).read();
        assert!(seen.rejected[0].contains("helm template CHART"), "{seen:?}");
    }
}

/// The longest names that the API server admits (apimachinery's `IsDNS1123Subdomain`), and a lock of a
/// leader election.
#[test]
fn names_with_dots_and_long_ones_are_legal() {
    let long = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(61));
    for name in [&*long, &"c".repeat(253), "kube-scheduler.v1"] {
        let objects = slice(name, "web", "10.0.0.1") + "---\n" + &endpoints(name);
        let seen = Bed::new(&[("x.yaml", &objects)]).read();
        assert_eq!((seen.slices(), seen.rejected.len()), (vec![name.to_owned()], 0), "{seen:?}");
        let note = seen.notes.first().expect("nobody uses the Endpoints");
        assert!(note.ends_with("not used: no Service can have this name"), "{note}");
    }
    for bad in ["a..b", "-a.b", "A.b", &"d".repeat(254)] {
        let seen = Bed::new(&[("x.yaml", &endpoints(bad))]).read();
        assert!(seen.rejected[0].contains("is no DNS subdomain"), "{seen:?}");
    }
}

#[test]
fn a_file_or_a_folder_that_is_too_large_keeps_its_state_and_says_so() {
    let small = service("a", "10.96.0.1", "80");
    let mut bed = Bed::new(&[("a.yaml", &small), ("b.yaml", &service("b", "10.96.0.2", "80"))]);
    bed.manifests.limits = TextLimits { file: small.len() as u64, all: 2 * MIN_COUNTED_BYTES };
    assert_eq!(bed.read().services(), ["a:80", "b:80"]);
    bed.write("a.yaml", &service("a", "10.96.0.1", "8080"));
    let seen = bed.read();
    assert_eq!(seen.services(), ["a:80", "b:80"]);
    let expected = format!(
        "a.yaml: not read: it has {} bytes, more than {}; divide it (the last good version is still served)",
        small.len() + 2,
        small.len()
    );
    assert_eq!(seen.rejected, [expected]);
    assert!(!bed.read().outcome.changed, "it is said once");
    bed.write("a.yaml", &service("a", "10.96.0.1", "81"));
    bed.write("c.yaml", &service("c", "10.96.0.3", "80"));
    let seen = bed.read();
    assert_eq!(seen.services(), ["a:81", "b:80"]);
    assert!(seen.rejected[0].starts_with("c.yaml: not read: all manifests together"), "{seen:?}");
    bed.remove("a.yaml");
    let seen = bed.read();
    assert_eq!((seen.services(), seen.rejected.len()), (vec!["b:80".into(), "c:80".into()], 0));
}

/// As one that grows while it is read.
#[test]
fn a_file_that_is_longer_than_it_says_is_read_up_to_the_limit() {
    let error = file::read_file(std::path::Path::new("/dev/zero"), 1000).unwrap_err().to_string();
    assert_eq!(error, "not read: it has more than 1000 bytes");
}

#[test]
fn what_is_read_again_and_has_not_changed_is_kept_once() {
    let both = |port| service("a", "10.96.0.1", "80") + "---\n" + &service("b", "10.96.0.2", port);
    let mut bed = Bed::new(&[("x.yaml", &both("80"))]);
    let before = bed.read().outcome.lists.services;
    bed.write("x.yaml", &both("81"));
    let seen = bed.read();
    let after = &seen.outcome.lists.services;
    assert!(Arc::ptr_eq(&before[0], &after[0]) && !Arc::ptr_eq(&before[1], &after[1]), "{seen:?}");
}

#[test]
fn of_many_errors_the_first_are_told_and_all_are_counted() {
    let good = service("good", "10.96.0.7", "80");
    let bad = |n| service(&format!("bad-{n}"), "None", "0");
    let nameless = "- x\n".to_owned();
    let documents: Vec<_> =
        (0..3 * MAX_MESSAGES).map(|_| nameless.clone()).chain([good.clone()]).collect();
    let mut bed = Bed::new(&[("x.yaml", &documents.join("---\n"))]);
    let seen = bed.read();
    assert_eq!(seen.services(), ["good:80"]);
    assert_eq!(seen.rejected.len(), MAX_MESSAGES + 1);
    let more = format!("and: {} in other places, which are not listed", 2 * MAX_MESSAGES);
    assert!(seen.rejected.contains(&more), "{:?}", seen.rejected.last());
    let kept: usize = bed.manifests.files.values().map(|file| file.documents.len()).sum();
    assert_eq!(
        kept,
        MAX_MESSAGES + 1,
        "a document of four bytes must not take more than that for ever"
    );

    // Those that say what they are keep their last good version, however many there are.
    let documents: Vec<_> = (0..2 * MAX_MESSAGES).map(bad).chain([good]).collect();
    let text = documents.join("---\n");
    bed.write("x.yaml", &text.replace("port: 0", "port: 80"));
    assert_eq!(bed.read().services().len(), 2 * MAX_MESSAGES + 1);
    bed.write("x.yaml", &text);
    let seen = bed.read();
    assert_eq!(
        (seen.services().len(), seen.rejected.len()),
        (2 * MAX_MESSAGES + 1, MAX_MESSAGES + 1)
    );
}
