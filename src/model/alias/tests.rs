use super::*;
use crate::model::{Change, Protocol, ServicePort};

const DOMAIN: &str = "cluster.local";

fn model(services: &[(&str, Option<&str>)]) -> Model {
    let mut model = Model::default();
    for &(name, alias) in services {
        let kind = match alias {
            Some(of) => ServiceKind::ExternalName(of.into()),
            None => ServiceKind::ClusterIp(Vec::new()),
        };
        let port = ServicePort { name: "".into(), port: 80, protocol: Protocol::Http };
        let service = Service::new(ServiceKey::new("shop", name), kind, vec![port]);
        model.apply(Change::Service(service), &mut Default::default());
    }
    model
}

fn resolved(model: &Model, name: &str) -> Arc<Service> {
    model.resolved(&ServiceKey::new("shop", name), DOMAIN).expect("it is there")
}

fn target(model: &Model, name: &str) -> String {
    match &resolved(model, name).kind {
        ServiceKind::Alias(target) => target.key.to_string(),
        ServiceKind::ExternalName(name) => name.to_string(),
        other => panic!("{other:?}"),
    }
}

fn refusal(model: &Model, name: &str) -> String {
    let service = resolved(model, name);
    assert!(service.ports.is_empty(), "nothing is served");
    let [flaw] = service.flaws.as_slice() else { panic!("{service:?}") };
    assert_eq!(&*flaw.field, "spec.externalName");
    flaw.reason.to_string()
}

#[test]
fn names_of_the_mesh_are_aliases_and_all_others_lead_out() {
    let model = model(&[
        ("db", None),
        ("full", Some("db.shop.svc.cluster.local")),
        ("short", Some("db.shop.svc")),
        ("outside", Some("db.shop")),
        ("other", Some("db.shop.svc.example.com")),
        ("pod", Some("db-0.db.shop.svc.cluster.local")),
        ("chain", Some("full.shop.svc.cluster.local")),
        ("out", Some("outside.shop.svc.cluster.local")),
    ]);
    assert_eq!(target(&model, "full"), "shop/db");
    assert_eq!(target(&model, "short"), "shop/db");
    assert_eq!(target(&model, "outside"), "db.shop", "whoever owns a namespace owns no domain");
    assert_eq!(target(&model, "other"), "db.shop.svc.example.com");
    assert_eq!(target(&model, "pod"), "db-0.db.shop.svc.cluster.local");
    assert_eq!(target(&model, "chain"), "shop/db");
    assert_eq!(target(&model, "out"), "db.shop");
    assert!(model.flaws(DOMAIN).next().is_none());
    let db = model.service(&ServiceKey::new("shop", "db")).unwrap();
    assert!(Arc::ptr_eq(&resolved(&model, "db"), db), "what is no alias costs nothing");
}

#[test]
fn loops_and_nonsense_are_refused_with_a_reason() {
    let model = model(&[
        ("self", Some("self.shop.svc.cluster.local")),
        ("a", Some("b.shop.svc.cluster.local")),
        ("b", Some("a.shop.svc.cluster.local")),
        ("to-loop", Some("a.shop.svc.cluster.local")),
        ("nobody", Some("missing.shop.svc.cluster.local")),
        ("address", Some("10.0.0.1")),
        ("single", Some("db")),
        ("own", Some("localhost")),
        ("own-too", Some("x.localhost")),
    ]);
    assert!(refusal(&model, "self").contains("shop/self -> shop/self"));
    assert!(refusal(&model, "a").contains("shop/a -> shop/b -> shop/a"));
    assert!(refusal(&model, "to-loop").contains("shop/to-loop -> shop/a -> shop/b -> shop/a"));
    assert!(refusal(&model, "nobody").contains("no service shop/missing"));
    assert!(refusal(&model, "address").contains("is an address"));
    assert!(refusal(&model, "single").contains("write db.NAMESPACE.svc.DOMAIN"));
    assert!(refusal(&model, "own").contains("own host"));
    assert!(refusal(&model, "own-too").contains("own host"));
    assert_eq!(model.flaws(DOMAIN).count(), 9);
}

#[test]
fn a_chain_has_an_end() {
    let names: Vec<String> = (0..12).map(|at| format!("s{at}")).collect();
    let hosts: Vec<String> =
        names.iter().map(|name| format!("{name}.shop.svc.cluster.local")).collect();
    let mut services = vec![(&*names[0], None)];
    services.extend(names[1..].iter().zip(&hosts).map(|(name, of)| (&**name, Some(&**of))));
    let model = model(&services);
    assert_eq!(target(&model, "s8"), "shop/s0");
    assert!(refusal(&model, "s9").contains("more than 8 aliases"));
}
