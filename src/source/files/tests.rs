use std::os::unix::fs::symlink;
use std::path::Path;

use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::*;
use crate::model::Model;

/// How long anything may take before the test fails. Less than [`SAFETY`], so that a change which
/// the kernel did not tell is a failure.
const DEADLINE: Duration = Duration::from_secs(10);

/// A running source and the model that it feeds.
struct Running {
    changes: mpsc::Receiver<SourceEvent>,
    model: Model,
    synced: usize,
    health: Arc<Health>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    fn start(paths: &[&Path]) -> Self {
        let (sender, changes) = mpsc::channel(16);
        let (health, shutdown) = (Arc::new(Health::default()), CancellationToken::new());
        let paths = paths.iter().map(|path| (*path).to_owned()).collect();
        let config = FileSourceConfig { paths, namespaces: Vec::new() };
        let task = tokio::spawn(run(config, sender, health.clone(), shutdown.clone()));
        Self { changes, model: Model::default(), synced: 0, health, shutdown, task }
    }

    fn ports(&self) -> Vec<u16> {
        self.model.services().map(|service| service.ports[0].port).collect()
    }

    /// Takes changes until the services have exactly these ports.
    async fn until(&mut self, ports: &[u16]) {
        while self.ports() != ports || self.synced == 0 {
            match timeout(DEADLINE, self.changes.recv()).await {
                Ok(Some(SourceEvent { change: Some(Change::Synced), .. })) => self.synced += 1,
                Ok(Some(event)) => self.apply(event),
                _ => panic!("the ports are {:?} and not {ports:?}", self.ports()),
            }
        }
    }

    fn apply(&mut self, event: SourceEvent) {
        self.model.apply(event.change.expect("a change"), &mut Default::default());
    }

    async fn until_health(&mut self, what: &str, holds: impl Fn(&Health) -> bool) {
        let latest = Instant::now() + DEADLINE;
        while !holds(&self.health) {
            assert!(Instant::now() < latest, "never: {what}");
            if let Ok(Some(event)) = timeout(Duration::from_millis(10), self.changes.recv()).await {
                self.apply(event);
            }
        }
    }

    async fn end(self) {
        self.shutdown.cancel();
        timeout(DEADLINE, self.task).await.expect("it ends").expect("without a panic");
    }
}

fn service(port: u16) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: a}}, spec: {{ports: [{{port: {port}}}]}}}}\n"
    )
}

fn temp() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).expect("a written file");
}

#[test]
fn a_path_that_does_not_exist_is_refused_at_the_start() {
    let dir = temp();
    let config = |path: &Path| FileSourceConfig {
        paths: vec![dir.path().to_owned(), path.to_owned()],
        namespaces: Vec::new(),
    };
    assert!(check_paths(&config(dir.path())).is_ok());
    let missing = dir.path().join("typo");
    let error = check_paths(&config(&missing)).expect_err("no such folder").to_string();
    assert!(
        error.starts_with(&format!("--manifests {}: No such file", missing.display())),
        "{error}"
    );
    let two = format!("{},{}", dir.path().display(), dir.path().display());
    let two = check_paths(&config(Path::new(&two))).expect_err("two in one").to_string();
    assert!(two.contains("commas are part of the path"), "{two}");
    let device = check_paths(&config(Path::new("/dev/null"))).expect_err("a device").to_string();
    assert!(device.ends_with("neither a file nor a folder"), "{device}");
}

#[tokio::test]
async fn an_empty_folder_is_synced_and_then_filled() {
    let dir = temp();
    let mut running = Running::start(&[dir.path()]);
    running.until(&[]).await;
    assert_eq!(running.health.waiting_for(), None);
    write(&dir.path().join("a.yaml"), &service(80));
    running.until(&[80]).await;
    write(&dir.path().join("a.yaml"), &service(81));
    running.until(&[81]).await;
    fs::remove_file(dir.path().join("a.yaml")).expect("removed");
    running.until(&[]).await;
    assert_eq!(running.synced, 1);
    running.end().await;
}

#[tokio::test]
async fn a_file_replaced_by_renaming_again_and_again() {
    let dir = temp();
    let (file, new) = (dir.path().join("mesh.yaml"), dir.path().join("mesh.yaml~"));
    write(&file, &service(80));
    for given in [file.as_path(), dir.path()] {
        let mut running = Running::start(&[given]);
        let start = if given == dir.path() { 83 } else { 80 };
        running.until(&[start]).await;
        for port in [81, 82, 83] {
            write(&new, &service(port));
            fs::rename(&new, &file).expect("renamed");
            running.until(&[port]).await;
        }
        running.end().await;
    }
}

/// As kubelet mounts a ConfigMap: names lead through `..data` to a folder with a date.
#[tokio::test]
async fn a_configmap_swapped_by_its_symlink() {
    let dir = temp();
    let write_service = |revision: &str, port| {
        let folder = dir.path().join(format!("..{revision}"));
        fs::create_dir(&folder).expect("a folder");
        write(&folder.join("mesh.yaml"), &service(port));
        symlink(format!("..{revision}"), dir.path().join("..data_tmp")).expect("a link");
        fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).expect("swapped");
    };
    write_service("1", 80);
    let file = dir.path().join("mesh.yaml");
    symlink("..data/mesh.yaml", &file).expect("a link");
    for (given, from) in [(dir.path(), 80), (file.as_path(), 90)] {
        let mut running = Running::start(&[given]);
        running.until(&[from]).await;
        for port in [from + 1, from + 2] {
            write_service(&port.to_string(), port);
            running.until(&[port]).await;
        }
        running.end().await;
        write_service(&format!("{from}-end"), 90);
    }
}

#[tokio::test]
async fn a_file_behind_symlinks_and_a_folder_that_is_one() {
    let (dir, elsewhere) = (temp(), temp());
    let target = elsewhere.path().join("real.yaml");
    write(&target, &service(80));
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    fs::create_dir(&one).expect("a folder");
    fs::create_dir(&two).expect("a folder");
    symlink(&target, one.join("a.yaml")).expect("a link");
    write(&two.join("a.yaml"), &service(90));
    let current = dir.path().join("current");
    symlink("one", &current).expect("a link");
    let mut running = Running::start(&[&current]);
    running.until(&[80]).await;
    write(&target, &service(81));
    running.until(&[81]).await;
    symlink("two", dir.path().join("next")).expect("a link");
    fs::rename(dir.path().join("next"), &current).expect("swapped");
    running.until(&[90]).await;
    write(&two.join("a.yaml"), &service(91));
    running.until(&[91]).await;
    running.end().await;
}

#[tokio::test]
async fn a_path_that_is_missing_holds_the_start_and_its_loss_changes_nothing() {
    let dir = temp();
    let late = dir.path().join("deep/late");
    let mut running = Running::start(&[&late]);
    let said = "not listed yet";
    running
        .until_health("the missing path is told", |health| {
            health.waiting_for().is_some_and(|why| why.contains(said) && why.contains("No such"))
        })
        .await;
    fs::create_dir_all(&late).expect("folders");
    write(&late.join("a.yaml"), &service(80));
    running.until(&[80]).await;
    assert_eq!(running.health.waiting_for(), None);

    fs::remove_dir_all(dir.path().join("deep")).expect("removed");
    let watch = late.display().to_string();
    running
        .until_health("the loss is told", |health| health.watches()[&watch].last_error.is_some())
        .await;
    assert_eq!(running.ports(), [80]);
    fs::create_dir_all(&late).expect("folders");
    write(&late.join("b.yaml"), &service(81));
    running.until(&[81]).await;
    assert_eq!(running.health.watches()[&watch].last_error, None);
    running.end().await;
}

#[tokio::test]
async fn a_bad_file_stands_in_the_health_until_it_is_good() {
    let dir = temp();
    let file = dir.path().join("a.yaml");
    write(&file, &service(80));
    let mut running = Running::start(&[dir.path()]);
    running.until(&[80]).await;
    write(&file, "a: [");
    running.until_health("the error", |health| health.rejections().len() == 1).await;
    assert_eq!(running.ports(), [80]);
    write(&file, &service(81));
    running.until(&[81]).await;
    assert!(running.health.rejections().is_empty());
    running.end().await;
}

/// A writer that empties a file and fills it slowly, with pauses longer than those in which the source
/// waits for quiet.
#[tokio::test]
async fn a_slow_writer_takes_nothing_away() {
    let dir = temp();
    let file = dir.path().join("a.yaml");
    let whole = format!("{}---\n{}", service(80), service(81).replace("name: a", "name: b"));
    write(&file, &whole);
    let mut running = Running::start(&[dir.path()]);
    running.until(&[80, 81]).await;
    write(&file, "");
    running.until_health("it is empty", |health| health.rejections().len() == 1).await;
    assert_eq!(running.ports(), [80, 81]);
    write(&file, &whole[..service(80).len()]);
    // What was taken before the rest has come would be missing from then on.
    let early = Instant::now() + QUIET_PERIOD * 10;
    while let Ok(Some(event)) = timeout_at(early, running.changes.recv()).await {
        running.apply(event);
        assert_eq!(running.ports(), [80, 81]);
    }
    let longer = whole.replace("81", "8181");
    write(&file, &longer);
    running.until(&[80, 8181]).await;
    assert!(running.health.rejections().is_empty());
    // And one that stays shorter is taken without another event.
    write(&file, &service(80));
    running.until(&[80]).await;
    running.end().await;
}

#[tokio::test]
async fn what_is_probably_not_meant_stands_in_the_health() {
    let dir = temp();
    fs::create_dir(dir.path().join("shop")).expect("a folder");
    let mut running = Running::start(&[dir.path()]);
    running
        .until_health("both are told", |health| {
            health.notes().values().any(|note| {
                note.contains("no .yaml, .yml or .json file") && note.contains("(shop)")
            })
        })
        .await;
    running.end().await;
}

#[tokio::test]
async fn reading_does_not_wake_itself() {
    let dir = temp();
    write(&dir.path().join("a.yaml"), &service(80));
    let mut watch = FileWatch::new();
    let paths = vec![dir.path().to_owned()];
    let mut manifests =
        ManifestSet::new(FileSourceConfig { paths: paths.clone(), namespaces: Vec::new() });
    for _ in 0..3 {
        watch.rewatch(&paths);
        assert_eq!(watch.error(), None);
        manifests.read(Instant::now());
        // Longer than the kernel needs to tell; a wake-up would come within microseconds.
        let changed = timeout(Duration::from_millis(100), watch.changed()).await;
        assert!(changed.is_err(), "reading was taken for a change");
    }
    write(&dir.path().join("a.yaml"), &service(81));
    timeout(DEADLINE, watch.changed()).await.expect("a change wakes");
}

#[tokio::test]
async fn neighbours_do_not_wake_a_single_file() {
    let dir = temp();
    let file = dir.path().join("a.yaml");
    write(&file, &service(80));
    let mut watch = FileWatch::new();
    watch.rewatch(std::slice::from_ref(&file));
    write(&dir.path().join("other.log"), "noise");
    assert!(timeout(Duration::from_millis(100), watch.changed()).await.is_err());
    write(&file, &service(81));
    timeout(DEADLINE, watch.changed()).await.expect("a change wakes");
}

/// A manifest is refused for a flaw of its spec, but not for one of its annotations.
#[tokio::test]
async fn a_bad_annotation_is_noted_and_the_service_is_there() {
    let folder = temp();
    let path = folder.path().join("a.yaml");
    let annotated = service(80)
        .replace("{name: a}", "{name: a, annotations: {pilothouse.io/retries: \"many\"}}");
    std::fs::write(&path, annotated).expect("written");
    let mut running = Running::start(&[folder.path()]);
    running.until(&[80]).await;
    let notes = running.health.notes();
    let (place, note) = notes.iter().next().expect("one");
    assert!(place.contains("a.yaml, document 1"), "{place}");
    assert!(note.starts_with("metadata.annotations[pilothouse.io/retries]: \"many\""), "{note}");
    assert!(running.health.rejections().is_empty());
    running.end().await;
}
