//! Routes and grants in files.

use super::*;

fn route(kind: &str, name: &str, rule: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec:\n  parentRefs: [{{group: '', kind: Service, name: reviews}}]\n  rules: [{rule}]\n---\n"
    )
}

fn grant(version: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/{version}\nkind: ReferenceGrant\n\
         metadata: {{name: all, namespace: other}}\nspec:\n  to: [{{group: '', kind: Service}}]\n  \
         from: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}}]\n---\n"
    )
}

const V1: &str = "{backendRefs: [{name: v1, port: 80}]}";
const V2: &str = "{backendRefs: [{name: v2, port: 80}]}";

impl Seen {
    /// Each route, and what it leads to first, or `refused`.
    fn routes(&self) -> Vec<String> {
        let all = self.outcome.lists.routes.iter();
        all.map(|route| {
            let backend = route.rules.first().and_then(|rule| rule.backends.first());
            let target = match backend.map(|backend| &backend.target) {
                Some(crate::model::route::BackendRef::Service { key, .. }) => key.name.to_string(),
                _ if route.refusal.is_some() => "refused".to_owned(),
                _ => "nothing".to_owned(),
            };
            format!("{}: {target}", route.key)
        })
        .collect()
    }
}

#[test]
fn all_three_kinds_are_read_alone_and_in_lists() {
    let list = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRouteList\nitems:\n- metadata: {name: item}\n  \
                spec: {rules: [{backendRefs: [{name: v1, port: 80}]}]}\n---\n";
    let beta = route("HTTPRoute", "beta", V2).replace("k8s.io/v1", "k8s.io/v1beta1");
    let parts = [
        route("HTTPRoute", "a", V1),
        route("GRPCRoute", "a", V2),
        beta,
        list.to_owned(),
        grant("v1beta1"),
    ];
    let text = parts.concat();
    let mut bed = Bed::new(&[("routes.yaml", &text)]);
    let seen = bed.read();
    assert!(seen.rejected.is_empty() && seen.outcome.skipped.is_empty(), "{:?}", seen.rejected);
    assert_eq!(
        seen.routes(),
        [
            "HTTPRoute shop/a: v1",
            "GRPCRoute shop/a: v2",
            "HTTPRoute shop/beta: v2",
            "HTTPRoute default/item: v1"
        ]
    );
    assert_eq!(seen.outcome.lists.grants.len(), 1);
    // Other kinds of the group are passed over, other versions are not.
    bed.write(
        "routes.yaml",
        &text.replace("k8s.io/v1\nkind: GRPCRoute", "k8s.io/v1alpha2\nkind: GRPCRoute"),
    );
    bed.write("gateway.yaml", &route("Gateway", "edge", V1));
    let seen = bed.read();
    assert_eq!(seen.outcome.skipped, BTreeMap::from([("Gateway".to_owned(), 1)]));
    assert!(seen.rejected[0].contains("\"gateway.networking.k8s.io/v1alpha2\" is not supported"));
    // As with any wrong document, what it said before stays.
    assert_eq!(seen.routes().len(), 4);
}

#[test]
fn a_route_that_the_crd_would_refuse_keeps_its_last_good_version() {
    let mut bed = Bed::new(&[("a.yaml", &route("HTTPRoute", "a", V1))]);
    assert_eq!(bed.read().routes(), ["HTTPRoute shop/a: v1"]);
    bed.write("a.yaml", &route("HTTPRoute", "a", "{backendRef: [{name: v2, port: 80}]}"));
    let seen = bed.read();
    assert_eq!(seen.routes(), ["HTTPRoute shop/a: v1"]);
    let error = &seen.rejected[0];
    assert!(error.contains("HTTPRoute shop/a: spec.rules[0].backendRef: not known"), "{error}");
    assert!(error.ends_with("(the last good version is still served)"), "{error}");
    bed.write("a.yaml", &route("HTTPRoute", "a", V2));
    assert_eq!(bed.read().routes(), ["HTTPRoute shop/a: v2"]);
}

#[test]
fn a_route_that_nobody_can_serve_is_there_and_refused() {
    let mut bed = Bed::new(&[("a.yaml", &route("HTTPRoute", "a", V1))]);
    bed.read();
    bed.write("a.yaml", &route("HTTPRoute", "a", "{retry: {attempts: 3}}"));
    let seen = bed.read();
    assert_eq!(seen.routes(), ["HTTPRoute shop/a: refused"]);
    assert!(seen.rejected.is_empty());
    assert!(seen.notes[0].ends_with("remove it (the route is not served)"), "{:?}", seen.notes);
}

#[test]
fn a_route_is_there_once_and_namespaces_are_chosen() {
    let text = route("HTTPRoute", "a", V1) + &route("HTTPRoute", "a", V2) + &grant("v1");
    let mut bed = Bed::new(&[("a.yaml", &text)]);
    let seen = bed.read();
    assert_eq!(seen.routes(), ["HTTPRoute shop/a: v1"]);
    assert!(
        seen.rejected[0].contains("HTTPRoute shop/a is defined already"),
        "{:?}",
        seen.rejected
    );
    let config = FileSourceConfig {
        paths: vec![bed.dir.path().to_owned()],
        namespaces: vec!["other".to_owned()],
    };
    bed.manifests = ManifestSet::new(config);
    let seen = bed.read();
    assert_eq!((seen.routes().len(), seen.outcome.lists.grants.len()), (0, 1));
    assert_eq!(seen.outcome.skipped["HTTPRoute of another namespace"], 2);
}
