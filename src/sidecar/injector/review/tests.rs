use super::*;

fn settings(text: &str) -> InjectorSettings {
    InjectorSettings::parse(format!("nativeSidecars: never\n{text}").as_bytes()).unwrap()
}

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "generateName": "web-6d4-", "labels": { "app": "web" } },
        "spec": { "containers": [{ "name": "web", "image": "web:1" }] },
    })
}

fn review_of(pod: Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5", "operation": "CREATE", "namespace": "shop",
            "kind": { "group": "", "version": "v1", "kind": "Pod" },
            "resource": { "group": "", "version": "v1", "resource": "pods" },
            "object": pod, "oldObject": null, "dryRun": false, "options": null,
            "userInfo": { "username": "system:serviceaccount:kube-system:replicaset-controller" },
        },
    })
}

fn asked(review_text: &Value, settings: &InjectorSettings) -> (Outcome, Value) {
    let reviewed = review(review_text.to_string().as_bytes(), settings, None);
    assert_eq!(reviewed.status, 200, "{}", reviewed.body);
    let answer: Value = serde_json::from_str(&reviewed.body).unwrap();
    assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
    assert_eq!(answer["kind"], "AdmissionReview");
    assert_eq!(answer["response"]["uid"], "705ab4f5");
    (reviewed.outcome, answer["response"].clone())
}

/// The pod that the API server makes of it.
fn patched(mut pod: Value, response: &Value) -> Value {
    assert_eq!(response["patchType"], "JSONPatch");
    let ByteString(patch) = serde_json::from_value(response["patch"].clone()).unwrap();
    let patch: json_patch::Patch = serde_json::from_slice(&patch).unwrap();
    json_patch::patch(&mut pod, &patch).unwrap();
    pod
}

#[test]
fn a_pod_gets_what_inject_makes_and_is_then_left_alone() {
    let settings = settings("");
    let (outcome, response) = asked(&review_of(pod()), &settings);
    assert_eq!((outcome, &response["allowed"]), (Outcome::Injected, &json!(true)));
    let patched = patched(pod(), &response);
    let of_namespace = settings.of("shop", None).unwrap();
    let Ok(Injected::Pod { pod: made, .. }) = inject::inject_pod(&pod(), "shop", &of_namespace)
    else {
        panic!("it has no sidecar")
    };
    assert_eq!(patched, made);
    assert_eq!(patched["metadata"]["generateName"], "web-6d4-");

    // As when another webhook has changed the pod and this one is asked again.
    let (outcome, response) = asked(&review_of(patched), &settings);
    assert_eq!((outcome, &response["allowed"]), (Outcome::Skipped, &json!(true)));
    assert!(response.get("patch").is_none(), "{response}");
}

#[test]
fn what_the_pod_itself_says_counts_as_with_istio() {
    let settings = settings("");
    for (label, annotation, injected) in [
        (None, None, true),
        (Some("true"), None, true),
        (None, Some("true"), true),
        (None, Some("false"), false),
        (Some("false"), None, false),
        (Some("true"), Some("false"), true),
        (Some("false"), Some("true"), false),
        (Some("no"), Some("true"), false),
    ] {
        let mut pod = pod();
        for (kind, value) in [("labels", label), ("annotations", annotation)] {
            if let Some(value) = value {
                pod["metadata"][kind]["sidecar.istio.io/inject"] = value.into();
            }
        }
        let wanted = if injected { Outcome::Injected } else { Outcome::Skipped };
        let (outcome, response) = asked(&review_of(pod), &settings);
        assert_eq!(outcome, wanted, "label {label:?}, annotation {annotation:?}");
        assert_eq!(response["allowed"], true);
    }
    let mut on_the_node = pod();
    on_the_node["spec"]["hostNetwork"] = true.into();
    assert_eq!(asked(&review_of(on_the_node), &settings).0, Outcome::Skipped);
    let mut of_the_cluster = review_of(pod());
    of_the_cluster["request"]["namespace"] = "kube-system".into();
    assert_eq!(asked(&of_the_cluster, &settings).0, Outcome::Skipped);
}

#[test]
fn a_wrong_value_refuses_the_pod_or_passes_it_through() {
    let mut wrong = pod();
    wrong["metadata"]["annotations"]["sidecar.istio.io/proxyCPU"] = "lots\nof\u{1b}[2J it".into();
    let (outcome, response) = asked(&review_of(wrong.clone()), &settings(""));
    assert_eq!((outcome, &response["allowed"]), (Outcome::Refused, &json!(false)));
    let said = response["status"]["message"].as_str().unwrap();
    assert!(said.contains("sidecar.istio.io/proxyCPU") && !said.contains('\n'), "{said}");
    assert_eq!(response["status"]["code"], 400);

    let (outcome, response) = asked(&review_of(wrong), &settings("onError: passThrough"));
    assert_eq!((outcome, &response["allowed"]), (Outcome::PassedThrough, &json!(true)));
    assert!(response.get("patch").is_none(), "{response}");
    let warning = response["warnings"][0].as_str().unwrap();
    assert!(warning.contains("sidecar.istio.io/proxyCPU"), "{warning}");
    assert!(!warning.contains(char::is_control), "{warning:?}");
}

#[test]
fn settings_are_those_of_the_namespace_of_the_request() {
    let settings = settings("namespaces: {shop: {image: shops.example/proxy:3}}");
    let image = |namespace: &str| {
        let mut review = review_of(pod());
        review["request"]["namespace"] = namespace.into();
        let (_, response) = asked(&review, &settings);
        let pod = patched(pod(), &response);
        let containers = pod["spec"]["containers"].as_array().unwrap();
        let proxy = containers.iter().find(|one| one["name"] == "istio-proxy").unwrap();
        proxy["image"].as_str().unwrap().to_owned()
    };
    assert_eq!(image("shop"), "shops.example/proxy:3");
    assert!(image("bank").starts_with("pilothouse-proxy:"));
}

#[test]
fn what_is_no_new_pod_is_let_in_with_a_warning() {
    for (field, value, words) in [
        ("operation", json!("UPDATE"), "UPDATE of v1/pods"),
        ("operation", json!("DELETE"), "DELETE of v1/pods"),
        ("subResource", json!("ephemeralcontainers"), "CREATE of v1/pods/ephemeralcontainers"),
        (
            "resource",
            json!({ "group": "apps", "version": "v1", "resource": "deployments" }),
            "CREATE of apps/v1/deployments",
        ),
        ("resource", json!({}), "CREATE of "),
    ] {
        let mut review = review_of(pod());
        review["request"][field] = value;
        let (outcome, response) = asked(&review, &settings(""));
        assert_eq!((outcome, &response["allowed"]), (Outcome::Skipped, &json!(true)), "{words}");
        let warning = response["warnings"][0].as_str().unwrap();
        assert!(warning.contains(words), "{warning}");
    }
}

#[test]
fn a_review_that_cannot_be_read_is_answered_with_what_is_wrong() {
    let with = |field: &str, value: Value| {
        let mut review = review_of(pod());
        match field.split_once('/') {
            Some((outer, inner)) => review[outer][inner] = value,
            None => review[field] = value,
        }
        review.to_string()
    };
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let deep = format!(
        "{{\"apiVersion\":\"admission.k8s.io/v1\",\"kind\":\"AdmissionReview\",\"request\":{{\"object\":{deep}}}}}"
    );
    for (body, words) in [
        (String::new(), "the body is empty"),
        (" \n".to_owned(), "the body is empty"),
        ("kind: AdmissionReview".to_owned(), "no AdmissionReview in JSON"),
        ("{\"kind\":".to_owned(), "EOF"),
        ("[]".to_owned(), "no AdmissionReview in JSON"),
        ("{}".to_owned(), "kind \"\""),
        (pod().to_string(), "kind \"Pod\""),
        (with("apiVersion", json!("admission.k8s.io/v1beta1")), "\"admission.k8s.io/v1beta1\""),
        (with("request", Value::Null), "has no request"),
        (with("request/uid", json!("")), "has no uid"),
        (with("request/uid", json!(7)), "request.uid: invalid type"),
        (with("request/namespace", json!({})), "request.namespace: invalid type"),
        (deep, "recursion limit"),
        (format!("{}{{}}", review_of(pod())), "stands after"),
        ("\u{0}".to_owned(), "no AdmissionReview in JSON"),
    ] {
        let reviewed = review(body.as_bytes(), &settings(""), None);
        let shown = body.chars().take(80).collect::<String>();
        assert_eq!((reviewed.outcome, reviewed.status), (Outcome::Bad, 400), "{shown}");
        assert!(reviewed.body.contains(words), "{shown}: {}", reviewed.body);
    }
    for (object, words) in [
        (Value::Null, "has no object"),
        (json!([]), "the review's object is no pod"),
        (json!("pod"), "the review's object is no pod"),
    ] {
        let mut review = review_of(pod());
        review["request"]["object"] = object;
        let (outcome, response) = asked(&review, &settings(""));
        assert_eq!((outcome, &response["allowed"]), (Outcome::Bad, &json!(false)));
        let said = response["status"]["message"].as_str().unwrap();
        assert!(said.contains(words), "{said}");
    }
    // An odd object is left alone or refused, and never a panic.
    for object in [json!({}), json!({ "spec": 1 }), json!({ "metadata": [], "spec": {} })] {
        let (outcome, _) = asked(&review_of(object.clone()), &settings(""));
        assert!(matches!(outcome, Outcome::Skipped | Outcome::Refused), "{object}: {outcome:?}");
    }
}

#[test]
fn what_depends_on_the_clusters_version_waits_for_it() {
    let auto = InjectorSettings::parse(b"").unwrap();
    let body = review_of(pod()).to_string();
    let reviewed = review(body.as_bytes(), &auto, None);
    assert_eq!((reviewed.outcome, reviewed.status), (Outcome::Unavailable, 503));
    let native = |native| {
        let reviewed = review(body.as_bytes(), &auto, Some(native));
        let answer: Value = serde_json::from_str(&reviewed.body).unwrap();
        let pod = patched(pod(), &answer["response"]);
        let init = pod["spec"]["initContainers"].as_array().unwrap();
        init.iter().any(|one| one["name"] == "istio-proxy")
    };
    assert!(native(true) && !native(false));
}
