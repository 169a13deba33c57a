//! A mesh without routes is served as it was before there were any: to the byte.

use xxhash_rust::xxh3::xxh3_64;

use super::*;

#[test]
fn without_routes_not_a_byte_differs_from_what_was_served_before_there_were_any() {
    let ports = [(80, Protocol::Http), (90, Protocol::Tcp), (15021, Protocol::Grpc)];
    let alias = |of: &str| ServiceKind::ExternalName(of.into());
    let hidden = Service {
        export_to: ExportTo::Only(["one".into()].into()),
        ..service(&key("two", "hidden"), at(&["10.1.0.7"]), &ports)
    };
    let mut mesh = Mesh::with_changes(vec![
        Change::Service(service(&key("one", "web"), at(&["10.1.0.1", "fd00::1"]), &ports)),
        Change::Service(service(&key("one", "unassigned"), at(&[]), &ports)),
        Change::Service(service(&key("two", "pods"), ServiceKind::Headless, &ports)),
        Change::Service(service(&key("two", "near"), alias("web.one.svc.cluster.local"), &[])),
        Change::Service(service(&key("two", "far"), alias("example.com"), &ports)),
        Change::Service(hidden),
        Change::Slice(slice(&key("one", "web"), "web-1", &[80, 90], &[1, 2])),
        Change::Slice(slice(&key("two", "pods"), "pods-1", &[80], &[3])),
    ]);
    let mut lines = content(&mesh.snapshot(&views()));
    // The listener of standalone proxies has a filter more, which rules may configure.
    lines.retain(|line| !(line.starts_with("standalone") && line.contains(": lds ")));
    assert_eq!(xxh3_64(lines.join("\n").as_bytes()), 11_327_213_220_033_068_533, "{lines:#?}");
}
