use clap::CommandFactory as _;
use clap::error::ErrorKind;

use super::*;
use crate::app;

fn read(arguments: &[&str]) -> Result<Cli, clap::Error> {
    let all = ["pilothouse"].iter().chain(arguments).map(std::ffi::OsString::from);
    environment::read(&all.collect::<Vec<_>>())
}

fn serve(arguments: &[&str]) -> Result<app::ControlPlaneConfig, clap::Error> {
    let arguments: Vec<&str> = ["serve"].iter().chain(arguments).copied().collect();
    let Command::Serve(serve) = read(&arguments)?.command else {
        panic!("these are the arguments of serve");
    };
    serve.config()
}

#[test]
fn exactly_one_source_is_needed() {
    let error = serve(&[]).unwrap_err().to_string();
    assert!(error.contains("--source kube") && error.contains("--manifests PATH"), "{error}");
    assert!(error.contains("pilothouse serve --manifests ./examples/bookinfo"), "{error}");
    let error = serve(&["--source", "kube", "--manifests", "x"]).unwrap_err().to_string();
    assert!(error.contains("exclude") && error.contains("each other"), "{error}");
    assert!(serve(&["--source", "kube", "--namespace", "a", "--namespace", "b"]).is_ok());
    assert!(serve(&["--manifests", "a", "--manifests", "b"]).is_ok());
}

#[test]
fn identities_are_named_and_debug_pages_for_nobody_are_refused() {
    let tls = ["--manifests", "x", "--tls-cert", "c", "--tls-key", "k"];
    let with = |more: &[&str]| serve(&[&tls[..], more].concat());
    let config = with(&[]).unwrap().identity;
    assert_eq!((&*config.trust_domain, config.required), ("cluster.local", true));
    assert!(!with(&["--require-identity", "false"]).unwrap().identity.required);
    let named = ["--act-for", "edge/gateway,ops/*", "--trust-domain", "corp.example"];
    let config = with(&named).unwrap().identity;
    assert_eq!(&*config.trust_domain, "corp.example");
    let patterns = ["edge/gateway", "ops/*"].map(|one| one.parse().unwrap());
    assert_eq!(config.act_for, crate::identity::ActFor::new(patterns.into()));
    for (flags, words) in [
        (&["--act-for", "gateway"][..], "NAMESPACE/SERVICE-ACCOUNT"),
        (&["--debug-identities", "system:masters"], "system:serviceaccounts:NAMESPACE"),
        (&["--trust-domain", "spiffe://x"], "as in cluster.local"),
        (&["--secure-http-addr", ":8443"], "--debug-identities"),
    ] {
        let error = with(flags).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    assert!(with(&["--secure-http-addr", ":8443", "--debug-identities", "ops/doctor"]).is_ok());
    for address in ["0.0.0.0:8080", "[::]:8080", "192.0.2.1:8080"] {
        let error = with(&["--http-addr", address]).unwrap_err().to_string();
        assert!(
            error.contains("not on loopback") && error.contains("--secure-http-addr"),
            "{error}"
        );
    }
    for (address, read) in [(":8081", "127.0.0.1:8081"), ("[::1]:8080", "[::1]:8080")] {
        assert_eq!(with(&["--http-addr", address]).unwrap().http_addr, read.parse().unwrap());
    }
    let reader = ["--debug-identities", "ops/doctor", "--secure-http-addr", ":8443"];
    let error = serve(&[&["--manifests", "x"], &reader[..]].concat()).unwrap_err().to_string();
    assert!(error.contains("needs a certificate"), "{error}");
}

#[test]
fn the_arguments_are_consistent() {
    Cli::command().debug_assert();
}

/// A peer that meets a limit is told which flag sets it.
#[test]
fn what_the_server_calls_its_settings_are_flags() {
    use pilothouse_xds_server::{Mesh, ServerTexts};

    let ServerTexts {
        not_ready: _,
        other_ports: _,
        max_names,
        max_types,
        request_bytes,
        first_request,
        send,
        requests_per_second,
        streams_per_peer,
        connection_age,
        connection_memory,
        peer_memory,
        keepalive,
    } = *crate::ads::IstioMesh::TEXTS;
    let named = [
        max_names,
        max_types,
        request_bytes,
        first_request,
        send,
        requests_per_second,
        streams_per_peer,
        connection_age,
        connection_memory,
        peer_memory,
        keepalive,
    ];
    let command = Cli::command();
    let serve = command.find_subcommand("serve").unwrap();
    let flags: Vec<_> = serve.get_arguments().filter_map(|one| one.get_long()).collect();
    for name in named {
        let flag = name.strip_prefix("--").unwrap();
        assert!(flags.contains(&flag), "{name} is none of {flags:?}");
    }
}

#[test]
fn flags_of_a_cluster_are_refused_with_manifests() {
    for flag in ["--context=x", "--endpoints=auto", "--watch-nodes", "--watch-timeout=30s"] {
        let error = serve(&["--manifests", "x", flag]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let name = flag.split('=').next().unwrap();
        let error = error.to_string();
        assert!(error.contains(name) && error.contains("no effect on manifests"), "{error}");
        assert!(serve(&["--source", "kube", flag]).is_ok(), "{flag}");
    }
}

#[test]
fn a_path_may_have_a_comma_and_namespaces_may_have_commas_between_them() {
    let config = serve(&["--manifests", "a,b", "--namespace", "shop,bank"]).unwrap();
    let app::SourceConfig::Files(files) = config.source else { panic!("files were given") };
    assert_eq!(files.paths, [PathBuf::from("a,b")]);
    assert_eq!(files.namespaces, ["shop", "bank"]);
    for wrong in ["", "Bad Name", "a/b", "a,,b"] {
        let error = serve(&["--manifests", "x", "--namespace", wrong]).unwrap_err().to_string();
        assert!(error.contains("--namespace"), "{wrong}: {error}");
    }
}

#[test]
fn the_domain_is_compared_byte_by_byte_so_it_is_brought_into_one_form() {
    let domain = |text| serve(&["--manifests", "x", "--domain", text]).map(|config| config.domain);
    assert_eq!(domain("Cluster.Local.").unwrap(), "cluster.local");
    for wrong in ["", "a b"] {
        assert!(domain(wrong).unwrap_err().to_string().contains("--domain"), "{wrong:?}");
    }
}

#[test]
fn flags_of_tls_go_together() {
    let with = |flags: &[&str]| serve(&[&["--manifests", "x"], flags].concat());
    let all = ["--tls-cert=c", "--tls-key=k", "--client-ca=a"];
    let config = with(&all).unwrap();
    let tls = config.tls.unwrap();
    assert_eq!(tls.address.to_string(), "0.0.0.0:15012");
    assert_eq!(tls.files.client_ca, Some("a".into()));
    assert_eq!(config.grpc_addr.unwrap().port(), 15010);
    let secure = with(&["--tls-cert=c", "--tls-key=k", "--secure-grpc-addr=:1", "--grpc-addr=off"]);
    let secure = secure.unwrap();
    assert_eq!((secure.tls.unwrap().address.port(), secure.grpc_addr), (1, None));
    assert!(with(&[]).unwrap().tls.is_none());
    for (flags, said) in [
        (&["--tls-cert=c"][..], "give --tls-key"),
        (&["--tls-key=k"], "give --tls-cert"),
        (&["--client-ca=a"], "--client-ca (PILOTHOUSE_CLIENT_CA) is about the port with TLS"),
        (&["--secure-grpc-addr=:1"], "--secure-grpc-addr (PILOTHOUSE_SECURE_GRPC_ADDR) is about"),
        (&["--grpc-addr=off"], "no proxy could connect"),
    ] {
        let error = with(flags).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(said), "{error}");
    }
}

/// What a flag might be given that nobody had thought of.
const ODD: [&str; 16] = [
    "",
    " ",
    "0",
    "0s",
    "1",
    "1ns",
    "1ms",
    "-1",
    "-5s",
    "365days",
    "1000000000",
    "18446744073709551615",
    "18446744073709551615s",
    "18446744073709551616",
    "garbage",
    "\u{1f6a2},;=~/",
];

/// What else a command wants before it can be read.
fn needed(command: &str, flag: &str) -> Vec<String> {
    let all = match command {
        "serve" if flag == "source" => &[][..],
        "serve" => &["--manifests=x"],
        "inject" => &["--filename=x"],
        _ => &[],
    };
    all.iter().filter(|one| !one.contains(flag)).map(|one| (*one).to_owned()).collect()
}

#[test]
fn every_flag_takes_every_value_or_refuses_it_by_name() {
    let mut command = Cli::command();
    command.build();
    let mut tried = 0;
    for command in command.get_subcommands().filter(|one| !one.is_hide_set()) {
        let flags = command.get_arguments().filter(|one| one.get_action().takes_values());
        for flag in flags.filter_map(|one| one.get_long()) {
            for value in ODD {
                let mut arguments = vec![command.get_name().to_owned()];
                arguments.extend(needed(command.get_name(), flag));
                arguments.push(format!("--{flag}={value}"));
                let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
                let read = read(&arguments).and_then(|cli| match cli.command {
                    Command::Serve(serve) => serve.config().map(drop),
                    _ => Ok(()),
                });
                if let Err(error) = read {
                    let said = error.to_string();
                    assert_eq!(error.exit_code(), 2, "{arguments:?}: {said}");
                    assert!(said.contains(&format!("--{flag}")), "{arguments:?}: {said}");
                }
                tried += 1;
            }
        }
    }
    assert!(tried > 50 * ODD.len(), "only {tried}");
}

#[test]
fn numbers_and_times_beyond_all_sense_are_refused_everywhere() {
    let mut command = Cli::command();
    command.build();
    for command in command.get_subcommands().filter(|one| !one.is_hide_set()) {
        for flag in command.get_arguments().filter(|one| one.get_action().takes_values()) {
            let names = flag.get_value_names().unwrap_or_default();
            let Some(name) =
                names.iter().find(|name| ["DURATION", "N", "BYTES"].contains(&name.as_str()))
            else {
                continue;
            };
            let most =
                if *name == "DURATION" { "18446744073709551615s" } else { "18446744073709551615" };
            for value in [most, "-1", "", "garbage"] {
                let flag = format!("--{}={value}", flag.get_long().unwrap_or_default());
                let error = read(&[command.get_name(), &flag]).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::ValueValidation, "{flag}: {error}");
            }
        }
    }
}

#[test]
fn every_flag_of_what_runs_in_a_cluster_has_a_variable_and_those_of_a_shell_have_none() {
    let mut command = Cli::command();
    command.build();
    for command in command.get_subcommands().filter(|one| !one.is_hide_set()) {
        let flags = command.get_arguments().filter(|one| one.get_long() != Some("help"));
        for flag in flags.filter(|one| one.get_long().is_some()) {
            let has = flag.get_env().is_some();
            let wanted = ["serve", "agent", "doctor", "injector"].contains(&command.get_name());
            assert_eq!(has, wanted, "{} {flag}", command.get_name());
        }
    }
}

/// Of flags whose default is not theirs alone the help tells it in words.
#[test]
fn defaults_that_are_told_in_words_are_those_in_force() {
    let mut command = Cli::command();
    command.build();
    let serve = command.find_subcommand("serve").unwrap();
    let assert_default_in_help = |flag: &str, default: String| {
        let flag = serve.get_arguments().find(|one| one.get_long() == Some(flag)).unwrap();
        let help = flag.get_help().unwrap().to_string();
        assert!(help.ends_with(&format!("[default: {default}]")), "{help}");
    };
    assert_default_in_help("watch-timeout", format!("{:?}", config::WATCH_TIMEOUT));
    assert_default_in_help("endpoints", format!("{:?}", kube::EndpointsKind::Auto).to_lowercase());
}

#[test]
fn agent_and_doctor_call_envoys_admin_pages_the_same() {
    for flag in ["--admin-addr=127.0.0.1:1", "--admin-address=localhost:1"] {
        for command in ["agent", "doctor"] {
            assert!(read(&[command, flag]).is_ok(), "{command} {flag}");
        }
    }
}

#[test]
fn flags_of_tokens_fit_together() {
    use crate::identity::tokens::{IssuerUrl, TokenAuthority};

    let tokens = |arguments: &[&str]| serve(arguments).map(|config| config.tokens);
    assert_eq!(tokens(&["--source=kube"]).unwrap(), None);
    let keys = tokens(&["--source=kube", "--context=x", "--token-verification=keys"]).unwrap();
    let keys = keys.unwrap();
    assert_eq!(keys.audiences, ["istio-ca"]);
    assert_eq!(keys.authority, TokenAuthority::ApiServerKeys { context: Some("x".to_owned()) });
    let review =
        tokens(&["--source=kube", "--token-verification=review", "--token-audience=a,b"]).unwrap();
    let review = review.unwrap();
    assert_eq!(review.audiences, ["a", "b"]);
    assert_eq!(review.authority, TokenAuthority::Review { context: None });
    let url = IssuerUrl::read("https://issuer.example").unwrap();
    let elsewhere = ["--token-verification=keys", "--token-issuer=https://issuer.example"];
    for (source, cluster) in [("--source=kube", Some(None)), ("--manifests=x", None)] {
        let found = tokens(&[&[source][..], &elsewhere].concat()).unwrap().unwrap();
        assert_eq!(found.authority, TokenAuthority::IssuerKeys { url: url.clone(), cluster });
    }
    for (wrong, why) in [
        (&["--source=kube", "--token-issuer=https://a.b"][..], "has no effect"),
        (&["--source=kube", "--token-audience=x"], "has no effect"),
        (
            &["--source=kube", "--token-verification=review", "--token-issuer=https://a.b"],
            "knows its issuers",
        ),
        (&["--manifests=x", "--token-verification=review"], "needs an API server"),
        (&["--manifests=x", "--token-verification=keys"], "needs an API server"),
        (&["--source=kube", "--token-verification=yes"], "off, keys, review"),
        (&["--source=kube", "--token-verification=keys", "--token-issuer=http://a.b"], "https://"),
        (&["--source=kube", "--token-verification=keys", "--token-audience="], "an audience is"),
    ] {
        let error = serve(wrong).unwrap_err().to_string();
        assert!(error.contains(why), "{wrong:?}: {error}");
    }
}
