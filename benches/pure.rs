//! What the parts without I/O cost, at 100, 1,000 and 10,000 services of 10 endpoints: one change
//! through the model, the translation and a new snapshot, and one step of a session.
//!
//! `cargo bench --bench pure`

use std::collections::BTreeSet;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use pilothouse::model::{Change, Dirty, Model, Scope};
use pilothouse::names::ResourceType;
use pilothouse::publish::SnapshotBuilder;
use pilothouse::translate::clusters;
use pilothouse::translate::endpoints::{self, ProxyLocation};
use pilothouse_testkit::model_mesh as mesh;
use pilothouse_xds::discovery_request::DiscoveryRequest as Request;
use pilothouse_xds::session::{Session, SessionLimits};
use pilothouse_xds::{FrameBuilder, Interner, View};
use prost::Message;

const SERVICES: [usize; 3] = [100, 1000, 10_000];
const ENDPOINTS: usize = 10;

/// The mesh with all its services, as a source lists them.
struct Mesh {
    model: Model,
    builder: SnapshotBuilder,
    dirty: Dirty,
    variant: usize,
}

impl Mesh {
    fn new(services: usize) -> Self {
        let (mut model, mut dirty) = (Model::default(), Dirty::default());
        let all = (0..services).map(mesh::service).map(Arc::new).collect();
        model.apply(Change::Services(Scope::All, all), &mut dirty);
        let all = (0..services).map(|number| Arc::new(mesh::slice(number, ENDPOINTS, 0))).collect();
        model.apply(Change::Slices(Scope::All, all), &mut dirty);
        let mut builder = SnapshotBuilder::new("cluster.local");
        builder.update(&model, &dirty);
        let mut mesh = Self { model, builder, dirty: Dirty::default(), variant: 0 };
        mesh.view();
        mesh
    }

    /// An endpoint of a service in the middle has another address.
    fn next(&mut self) -> Change {
        self.variant += 1;
        Change::Slice(mesh::slice(7, ENDPOINTS, self.variant))
    }

    fn apply(&mut self, change: Change) {
        self.dirty = Dirty::default();
        self.model.apply(change, &mut self.dirty);
    }

    fn view(&mut self) -> Arc<View> {
        let key = mesh::view();
        self.builder.snapshot(&BTreeSet::from([key.clone()])).views[&key].clone()
    }
}

fn one_change(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("one endpoint change");
    for services in SERVICES {
        let mut mesh = Mesh::new(services);
        group.bench_function(BenchmarkId::new("model apply", services), |bencher| {
            bencher.iter(|| {
                let change = mesh.next();
                mesh.apply(change);
            });
        });
        let change = mesh.next();
        mesh.apply(change);
        group.bench_function(BenchmarkId::new("translate", services), |bencher| {
            let Some(key) = mesh.dirty.services.first() else { return };
            let Some(service) = mesh.model.service(key) else { return };
            bencher.iter(|| {
                let slices = mesh.model.slices(key).map(|slice| &**slice);
                let clusters = clusters::service_clusters(service, "cluster.local");
                let place = ProxyLocation { zone: None, node: None, regions: mesh.model.regions() };
                let endpoints =
                    endpoints::service_endpoints(service, slices, "cluster.local", place);
                black_box((clusters, endpoints))
            });
        });
        group.bench_function(BenchmarkId::new("snapshot update", services), |bencher| {
            bencher.iter(|| {
                let change = mesh.next();
                mesh.apply(change);
                mesh.builder.update(&mesh.model, &mesh.dirty);
                black_box(mesh.view())
            });
        });
    }
    group.finish();
}

fn request(of: ResourceType, names: usize, nonce: &str) -> Request {
    let request = DeltaDiscoveryRequest {
        type_url: of.type_url().to_owned(),
        resource_names_subscribe: (0..names).map(mesh::cluster).collect(),
        response_nonce: nonce.to_owned(),
        ..Default::default()
    };
    #[expect(clippy::expect_used, reason = "it was encoded here")]
    Request::decode(Bytes::from(request.encode_to_vec()), true).expect("a request")
}

/// A stream that names every cluster is told of one change, and accepts it.
fn session_step(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("session step");
    for services in SERVICES {
        let mut mesh = Mesh::new(services);
        let frames = Arc::new(FrameBuilder::new("bench"));
        let interner = Arc::new(Interner::default());
        let mut session = Session::new(
            true,
            ResourceType::TABLE,
            None,
            SessionLimits::default(),
            interner,
            frames,
            1,
        );
        let step = |session: &mut Session, view: &View, first: Option<&Request>| {
            if let Some(request) = first {
                session.handle_request(request, view).ok();
            }
            while let Some(response) = session.next_response(view) {
                let of = response.resource_type.map_or(ResourceType::Endpoint, ResourceType::from);
                let nonce = format!("{:016x}", response.nonce);
                session.handle_request(&request(of, 0, &nonce), view).ok();
            }
        };
        let view = mesh.view();
        step(&mut session, &view, Some(&request(ResourceType::Endpoint, services, "")));
        group.bench_function(BenchmarkId::from_parameter(services), |bencher| {
            bencher.iter_batched(
                || {
                    let change = mesh.next();
                    mesh.apply(change);
                    mesh.builder.update(&mesh.model, &mesh.dirty);
                    mesh.view()
                },
                |view| step(&mut session, &view, None),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group! {
    name = pure;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = one_change, session_step
}
criterion_main!(pure);
