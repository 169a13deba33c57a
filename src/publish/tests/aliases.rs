//! Aliases follow what they stand for, and a headless service's pods cost one update of endpoints.

use super::*;

fn alias(name: &str, of: &str, ports: &[(u16, Protocol)]) -> Change {
    let kind = ServiceKind::ExternalName(of.into());
    Change::Service(service(&key("one", name), kind, ports))
}

/// Which cluster a name leads to in a sidecar's table of port 80.
fn leads_to(view: &View, name: &str) -> Option<String> {
    view.set(ResourceType::Route).get("80")?;
    let mut hosts = table(view, "80").virtual_hosts.into_iter();
    let host = hosts.find(|host| host.domains.iter().any(|domain| domain == name))?;
    let text = format!("{:?}", host.routes);
    let at = text.find("outbound|")?;
    Some(text[at..].split('"').next()?.to_owned())
}

#[test]
fn an_alias_follows_its_target_over_another_alias() {
    let db = key("two", "db");
    let target_with = |kind, ports: &[(u16, Protocol)]| Change::Service(service(&db, kind, ports));
    let mut mesh = Mesh::with_changes(vec![
        alias("near", "far.one.svc.cluster.local", &[]),
        alias("far", "db.two.svc.cluster.local", &[]),
    ]);
    let look = |mesh: &mut Mesh| leads_to(&mesh.view(ProxyKind::Sidecar, Some("one")), "near");
    assert_eq!(look(&mut mesh), None, "there is no db yet");
    let own = Some("outbound|80||db.two.svc.cluster.local".to_owned());
    mesh.apply(target_with(at(&["10.1.0.1"]), &[(80, Protocol::Http)]));
    assert_eq!(look(&mut mesh), own);
    mesh.apply(target_with(ServiceKind::Headless, &[(80, Protocol::Grpc)]));
    assert_eq!(look(&mut mesh), own);
    mesh.apply(target_with(at(&[]), &[(81, Protocol::Http)]));
    assert_eq!(look(&mut mesh), None);
    mesh.apply(target_with(ServiceKind::ExternalName("example.com".into()), &[]));
    mesh.apply(alias("near", "far.one.svc.cluster.local", &[(80, Protocol::Http)]));
    let outside = Some("outbound|80||near.one.svc.cluster.local".to_owned());
    assert_eq!(look(&mut mesh), outside, "its own cluster, by DNS");
    mesh.apply(target_with(at(&[]), &[(80, Protocol::Http)]));
    assert_eq!(look(&mut mesh), own);
    mesh.apply(Change::ServiceGone(db.clone()));
    assert_eq!(look(&mut mesh), None);
}

#[test]
fn an_alias_is_seen_where_its_target_is_seen_too() {
    let to = |namespaces: &[&str]| {
        let export_to = ExportTo::Only(namespaces.iter().map(|one| Arc::from(*one)).collect());
        let ports = [(80, Protocol::Http)];
        Change::Service(Service { export_to, ..service(&key("two", "db"), at(&[]), &ports) })
    };
    let mut mesh =
        Mesh::with_changes(vec![alias("near", "db.two.svc.cluster.local", &[]), to(&["two"])]);
    let look = |mesh: &mut Mesh, namespace| {
        leads_to(&mesh.view(ProxyKind::Sidecar, Some(namespace)), "near.one")
    };
    let db = Some("outbound|80||db.two.svc.cluster.local".to_owned());
    assert_eq!((look(&mut mesh, "one"), look(&mut mesh, "two")), (None, db.clone()));
    mesh.apply(to(&["one", "two"]));
    assert_eq!((look(&mut mesh, "one"), look(&mut mesh, "two")), (db.clone(), db.clone()));
    mesh.apply(to(&["one"]));
    assert_eq!((look(&mut mesh, "one"), look(&mut mesh, "two")), (db, None));
}

#[test]
fn a_service_that_becomes_an_alias_leaves_no_endpoints_behind() {
    let web = key("one", "web");
    let cluster = "outbound|80||web.one.svc.cluster.local";
    let mut mesh = Mesh::with_changes(vec![
        Change::Service(service(&web, at(&[]), &[(80, Protocol::Http)])),
        Change::Slice(slice(&web, "web-1", &[80], &[1])),
    ]);
    let has =
        |mesh: &mut Mesh, of| mesh.view(ProxyKind::Sidecar, None).set(of).get(cluster).is_some();
    assert!(has(&mut mesh, ResourceType::Endpoint));
    mesh.apply(alias("web", "example.com", &[(80, Protocol::Http)]));
    assert!(has(&mut mesh, ResourceType::Cluster));
    assert!(!has(&mut mesh, ResourceType::Endpoint));
    mesh.apply(Change::Service(service(&web, ServiceKind::Headless, &[(80, Protocol::Http)])));
    assert!(has(&mut mesh, ResourceType::Endpoint));
}

#[test]
fn a_new_pod_of_a_headless_service_is_one_update_of_endpoints() {
    let db = key("one", "db");
    let pods = |hosts: &[u8]| {
        let mut slice = slice(&db, "db-1", &[80, 90], hosts);
        for (at, endpoint) in slice.subsets[0].endpoints.iter_mut().enumerate() {
            endpoint.hostname = Some(format!("db-{at}").into());
        }
        Change::Slice(slice)
    };
    let ports = [(80, Protocol::Http), (90, Protocol::Tcp)];
    let mut mesh = Mesh::with_changes(vec![
        Change::Service(service(&db, ServiceKind::Headless, &ports)),
        pods(&[1, 2]),
    ]);
    for kind in [ProxyKind::Sidecar, ProxyKind::DEFAULT_STANDALONE] {
        let before = mesh.view(kind.clone(), Some("one"));
        for hosts in [[1, 2, 3].as_slice(), &[1, 4, 3], &[1, 2]] {
            mesh.apply(pods(hosts));
            let after = mesh.view(kind.clone(), Some("one"));
            for of in [ResourceType::Cluster, ResourceType::Listener, ResourceType::Route] {
                assert!(Arc::ptr_eq(before.set(of), after.set(of)), "{of:?}");
            }
        }
        mesh.apply(pods(&[1, 2, 3]));
        let after = mesh.view(kind, Some("one"));
        let changed =
            after.set(ResourceType::Endpoint).diff_from(before.set(ResourceType::Endpoint));
        assert_eq!(changed.changed.len(), 1, "the one HTTP port's");
        mesh.apply(pods(&[1, 2]));
    }
}
