//! The mesh of `make demo`, served at addresses that stay the same when the control plane is started again.

use std::net::SocketAddr;
use std::path::Path;

use tempfile::TempDir;

use pilothouse_testkit::control_plane::{ControlPlane, pilothouse};
use pilothouse_testkit::{manifests, places, repository};

#[derive(Debug)]
pub(crate) struct Mesh {
    folder: TempDir,
    pub(crate) grpc: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) control: ControlPlane,
}

impl Mesh {
    pub(crate) async fn start() -> Self {
        let folder = TempDir::new().unwrap();
        for entry in std::fs::read_dir(repository().join("examples/bookinfo")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|end| end == "yaml") {
                std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
            }
        }
        let address = places::address();
        let [grpc, http] = [(); 2].map(|()| SocketAddr::new(address, places::port()));
        let control = serve(folder.path(), grpc, http).await;
        Self { folder, grpc, http, control }
    }

    /// Starts the control plane again where it was, after it has ended.
    pub(crate) async fn start_again(&mut self) {
        self.control = serve(self.folder.path(), self.grpc, self.http).await;
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.http)
    }

    /// One of the demo's manifests with one text in the place of another.
    pub(crate) fn edit(&self, file: &str, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.folder.path().join(file)).unwrap();
        assert!(text.contains(from), "{file} has {from:?}");
        manifests::write(self.folder.path(), file, &text.replace(from, to));
    }

    /// A Service more.
    pub(crate) fn put(&self, name: &str, text: &str) {
        manifests::write(self.folder.path(), &format!("{name}.yaml"), text);
    }
}

async fn serve(folder: &Path, grpc: SocketAddr, http: SocketAddr) -> ControlPlane {
    let source = ["serve", "--manifests", folder.to_str().unwrap()];
    let control = ControlPlane::start_command_at(pilothouse(&source), grpc, http).await;
    control.becomes_ready().await;
    control
}
