use proptest::prelude::*;

use super::*;

fn names() -> CertificateNames {
    CertificateNames { trust_domain: "cluster.local".into(), domain: "corp.example".into() }
}

fn principal(namespace: &str, service_account: &str) -> Principal {
    Principal {
        trust_domain: "cluster.local".into(),
        namespace: namespace.into(),
        service_account: service_account.into(),
    }
}

fn of(uri: &[&str], dns: &[&str]) -> Result<Option<String>, SanError> {
    let found = names().principal(uri.iter().copied(), dns.iter().copied())?;
    Ok(found.map(|found| format!("{}/{}", found.namespace, found.service_account)))
}

#[test]
fn a_principal_is_shown_as_its_spiffe_id() {
    assert_eq!(principal("shop", "web").to_string(), "spiffe://cluster.local/ns/shop/sa/web");
}

#[test]
fn a_spiffe_uri_names_a_service_account() {
    for (uri, expected) in [
        ("spiffe://cluster.local/ns/shop/sa/web", "shop/web"),
        ("SPIFFE://cluster.local/ns/shop/sa/web", "shop/web"),
        ("spiffe://cluster.local/ns/shop/sa/web.v1", "shop/web.v1"),
    ] {
        assert_eq!(of(&[uri], &[]), Ok(Some(expected.to_owned())), "{uri}");
    }
    // It goes before DNS names, which are not looked at then.
    let both = of(&["spiffe://cluster.local/ns/shop/sa/web"], &["other.else.svc"]);
    assert_eq!(both, Ok(Some("shop/web".to_owned())));
    // Names of other schemes say nothing.
    let others = ["https://cluster.local/ns/a/sa/b", "urn:x", "", "spiff"];
    assert_eq!(of(&others, &[]), Ok(None));
    let among = ["urn:x", "spiffe://cluster.local/ns/shop/sa/web"];
    assert_eq!(of(&among, &[]), Ok(Some("shop/web".to_owned())));
}

#[test]
fn a_spiffe_uri_of_another_form_is_refused_not_passed_over() {
    let long_name = format!("spiffe://cluster.local/ns/shop/sa/{}", "a".repeat(64 << 10));
    let long_segment = format!("spiffe://cluster.local/ns/{}/sa/web", "a".repeat(64));
    for uri in [
        "spiffe:",
        "spiffe:/",
        "spiffe://",
        "spiffe:cluster.local/ns/shop/sa/web",
        "spiffe:///ns/shop/sa/web",
        "spiffe://cluster.local",
        "spiffe://cluster.local/",
        "spiffe://cluster.local/ns/shop",
        "spiffe://cluster.local/ns/shop/sa/",
        "spiffe://cluster.local/ns//sa/web",
        "spiffe://cluster.local//ns/shop/sa/web",
        "spiffe://cluster.local/ns/shop/sa/web/",
        "spiffe://cluster.local/ns/shop/sa/web/x",
        "spiffe://cluster.local/sa/web/ns/shop",
        "spiffe://cluster.local/NS/shop/SA/web",
        "spiffe://cluster.local/ns/Shop/sa/web",
        "spiffe://cluster.local/ns/sho%70/sa/web",
        "spiffe://cluster.local/ns/shop%2Fsa/sa/web",
        "spiffe://cluster.local/ns/../sa/web",
        "spiffe://cluster.local/ns/shop/sa/..",
        "spiffe://cluster.local/ns/shop/sa/.web",
        "spiffe://cluster.local/ns/shop/sa/web?x=y",
        "spiffe://cluster.local/ns/shop/sa/web#x",
        "spiffe://user@cluster.local/ns/shop/sa/web",
        "spiffe://cluster.local:443/ns/shop/sa/web",
        "spiffe://Cluster.local/ns/shop/sa/web",
        "spiffe://cluster.local/ns/shop\0/sa/web",
        "spiffe://cluster.local/ns/shop/sa/web\0.evil",
        "spiffe://cluster.local/ns/shop\u{202e}/sa/web",
        "spiffe://cluster.local/ns/shоp/sa/web",
        "spiffe://cluster.local/ns/shop/sa/web ",
        "spiffe://cluster.local/ns/shop/sa/web\n",
        "spiffe://cluster.local\\ns\\shop\\sa\\web",
        &long_name,
        &long_segment,
    ] {
        let Err(error) = of(&[uri], &["web.shop.svc"]) else { panic!("{uri:?} was accepted") };
        assert!(matches!(error, SanError::Malformed { .. }), "{uri:?}: {error}");
        let text = error.to_string();
        assert!(text.len() < 2000 && !text.contains('\0') && !text.contains('\u{202e}'), "{text}");
        assert!(text.contains("spiffe://cluster.local/ns/NAMESPACE/sa/SERVICE-ACCOUNT"), "{text}");
    }
}

#[test]
fn another_trust_domain_is_named_beside_our_own() {
    let error = of(&["spiffe://elsewhere.example/ns/shop/sa/web"], &[]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the client certificate's URI name \"spiffe://elsewhere.example/ns/shop/sa/web\" is of the trust \
         domain \"elsewhere.example\", and this control plane's is \"cluster.local\" (--trust-domain)"
    );
}

#[test]
fn a_dns_name_of_the_form_account_namespace_svc_counts_where_there_is_no_spiffe_uri() {
    for (name, expected) in [
        ("web.shop.svc", Some("shop/web")),
        ("web.shop.svc.corp.example", Some("shop/web")),
        // Of another domain, or another form: it says nothing.
        ("web.shop.svc.cluster.local", None),
        ("web.shop", None),
        ("web", None),
        ("svc", None),
        (".shop.svc", None),
        ("web..svc", None),
        ("a.web.shop.svc", None),
        ("*.shop.svc", None),
        ("Web.shop.svc", None),
        ("web.shop.svc.", None),
        ("web\0.shop.svc", None),
        ("web.shop.svc\0", None),
        ("web.shop.svc.corp.example.evil", None),
        ("", None),
    ] {
        assert_eq!(of(&[], &[name]), Ok(expected.map(str::to_owned)), "{name:?}");
    }
    let usual = ["web", "web.shop", "web.shop.svc", "web.shop.svc.corp.example"];
    assert_eq!(of(&[], &usual), Ok(Some("shop/web".to_owned())));
}

#[test]
fn names_that_contradict_each_other_are_refused_and_both_named() {
    let uris = ["spiffe://cluster.local/ns/a/sa/x", "spiffe://cluster.local/ns/b/sa/x"];
    let error = of(&uris, &[]).unwrap_err().to_string();
    assert_eq!(
        error,
        "the client certificate names both spiffe://cluster.local/ns/a/sa/x and \
         spiffe://cluster.local/ns/b/sa/x: a certificate of a proxy names one ServiceAccount"
    );
    assert!(matches!(of(&[], &["x.a.svc", "x.b.svc"]), Err(SanError::Several { .. })));
    assert_eq!(of(&[uris[0], uris[0]], &[]), Ok(Some("a/x".to_owned())));
    // One that is wrong is not outvoted.
    assert!(of(&[uris[0], "spiffe://cluster.local/"], &[]).is_err());
}

#[test]
fn a_proxy_may_claim_the_namespace_and_the_account_of_its_identity_and_no_other() {
    let web = principal("shop", "web");
    let nobody = ActFor::default();
    let claim = |of_id: Option<&str>, namespace: Option<&str>, account: Option<&str>| Claim {
        namespace_of_id: of_id.map(str::to_owned),
        namespace: namespace.map(str::to_owned),
        service_account: account.map(str::to_owned),
    };
    for allowed in [
        claim(None, None, None),
        claim(Some("shop"), None, None),
        claim(None, Some("shop"), Some("web")),
        claim(Some("shop"), Some("shop"), None),
    ] {
        assert_eq!(allowed.check(&web, &nobody), Ok(()), "{allowed:?}");
    }
    let gateway = ActFor::new(vec!["shop/web".parse().unwrap()]);
    for (refused, sentence) in [
        (
            claim(Some("bank"), None, None),
            "the proxy's node id claims the namespace \"bank\", and its identity \
             spiffe://cluster.local/ns/shop/sa/web is of the namespace \"shop\": a proxy may only claim the \
             namespace of its identity, unless --act-for names shop/web",
        ),
        (
            claim(Some("shop"), Some("bank"), None),
            "the proxy's metadata NAMESPACE claims the namespace \"bank\", and its identity \
             spiffe://cluster.local/ns/shop/sa/web is of the namespace \"shop\": a proxy may only claim the \
             namespace of its identity, unless --act-for names shop/web",
        ),
        (
            claim(Some("shop"), None, Some("till")),
            "the proxy's metadata SERVICE_ACCOUNT claims the account \"till\", and its identity is \
             spiffe://cluster.local/ns/shop/sa/web: a proxy may only claim the ServiceAccount of its identity, \
             unless --act-for names shop/web",
        ),
    ] {
        assert_eq!(refused.check(&web, &nobody).unwrap_err().to_string(), sentence);
        assert_eq!(refused.check(&web, &gateway), Ok(()));
    }
    let long = claim(Some(&"\0".repeat(1 << 20)), None, None);
    assert!(long.check(&web, &nobody).unwrap_err().to_string().len() < 2000);
}

#[test]
fn accounts_are_named_one_by_one_or_by_namespace() {
    let parse = |text: &str| text.parse::<allowed::AccountPattern>();
    for wrong in
        ["", "shop", "/", "shop/", "/web", "*/web", "shop/we*", "Shop/web", "a/b/c", "a.b/c"]
    {
        assert_eq!(parse(wrong), Err(allowed::PatternError), "{wrong:?}");
    }
    let list = ActFor::new(vec![parse("edge/gateway").unwrap(), parse("ops/*").unwrap()]);
    for (namespace, account, expected) in [
        ("edge", "gateway", true),
        ("edge", "gateway.v2", false),
        ("edge", "web", false),
        ("ops", "anything", true),
        ("shop", "gateway", false),
    ] {
        assert_eq!(list.has(&principal(namespace, account)), expected, "{namespace}/{account}");
    }
    assert!(!ActFor::default().has(&principal("edge", "gateway")));
}

#[test]
fn readers_are_named_by_account_or_by_kubernetes_groups() {
    let parse = |text: &str| text.parse::<allowed::ReaderPattern>();
    for wrong in ["", "ops", "system:masters", "system:serviceaccounts:", "system:serviceaccountsx"]
    {
        assert_eq!(parse(wrong), Err(allowed::ReaderError), "{wrong:?}");
    }
    let readers = |text: &str| Readers::new(vec![parse(text).unwrap()]);
    let (ours, theirs) = (principal("ops", "viewer"), principal("shop", "web"));
    for (entry, of_ours, of_theirs) in [
        ("ops/viewer", true, false),
        ("ops/other", false, false),
        ("ops/*", true, false),
        ("system:serviceaccounts:ops", true, false),
        ("system:serviceaccounts", true, true),
    ] {
        let readers = readers(entry);
        assert_eq!((readers.has(&ours), readers.has(&theirs)), (of_ours, of_theirs), "{entry}");
    }
    assert!(!Readers::default().has(&ours));
}

proptest! {
    /// Whatever a name is, what is accepted is one that is written in one way only.
    #[test]
    fn an_accepted_uri_is_the_principals_own(name in ".{0,80}", tail in ".{0,40}") {
        for uri in [name.clone(), format!("spiffe:{name}"), format!("spiffe://cluster.local/ns/{name}/sa/{tail}")] {
            if let Ok(Some(found)) = names().principal([&*uri], []) {
                prop_assert_eq!(found.to_string(), uri.replacen(&uri[..6], "spiffe", 1));
            }
        }
    }

    #[test]
    fn every_valid_principal_is_read_back(namespace in "[a-z]([-a-z0-9]{0,20}[a-z0-9])?", account in "[a-z][a-z0-9]{0,20}(\\.[a-z0-9]{1,9}){0,3}") {
        let wanted = principal(&namespace, &account);
        let uri = wanted.to_string();
        prop_assert_eq!(Principal::read(&uri), Some(wanted.clone()));
        prop_assert_eq!(names().principal([&*uri], []), Ok(Some(wanted)));
    }

    #[test]
    fn no_dns_name_is_read_as_two_accounts(name in "[a-z.*\\x00-\\x7f]{0,40}") {
        if let Ok(Some(found)) = names().principal([], [&*name]) {
            let host = format!("{}.{}.svc", found.service_account, found.namespace);
            let in_domain = format!("{host}.corp.example");
            prop_assert!(name == host || name == in_domain);
        }
    }
}
