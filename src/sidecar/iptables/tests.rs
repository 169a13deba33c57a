use clap::Parser;

use super::*;

#[derive(Debug, Parser)]
struct Command {
    #[command(flatten)]
    args: IptablesArgs,
}

fn capture(arguments: &[&str]) -> Capture {
    let arguments = ["iptables"].iter().chain(arguments);
    Command::try_parse_from(arguments).unwrap_or_else(|error| panic!("{error}")).args.capture()
}

fn rules(family: Family, arguments: &[&str]) -> Vec<String> {
    capture(arguments).rules(family)
}

/// The rules of one chain, without its name.
fn chain(rules: &[String], name: &str) -> Vec<String> {
    let start = format!("-A {name} ");
    rules.iter().filter_map(|rule| rule.strip_prefix(&start)).map(str::to_owned).collect()
}

#[test]
fn everything_is_captured_as_by_istio() {
    let wanted = "\
*nat
:ISTIO_INBOUND - [0:0]
:ISTIO_OUTPUT - [0:0]
:ISTIO_IN_REDIRECT - [0:0]
:ISTIO_REDIRECT - [0:0]
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A ISTIO_INBOUND -p tcp --dport 15000 -j RETURN
-A ISTIO_INBOUND -p tcp --dport 15020 -j RETURN
-A ISTIO_INBOUND -p tcp --dport 15021 -j RETURN
-A ISTIO_INBOUND -p tcp --dport 15090 -j RETURN
-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT
-A OUTPUT -p tcp -j ISTIO_OUTPUT
-A ISTIO_OUTPUT -p tcp --dport 53 -j RETURN
-A ISTIO_OUTPUT -s 127.0.0.6/32 -o lo -j RETURN
-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -o lo -m owner ! --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m owner --gid-owner 1337 -j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -o lo -m owner ! --gid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner --gid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN
-A ISTIO_OUTPUT -j ISTIO_REDIRECT
COMMIT
";
    assert_eq!(apply(&rules(Family::V4, &[]), ""), wanted);
    let v6 = wanted.replace("127.0.0.6/32", "::6/128").replace("127.0.0.1/32", "::1/128");
    assert_eq!(apply(&rules(Family::V6, &[]), ""), v6);
}

#[test]
fn istios_short_flags_say_what_they_say_there() {
    let arguments = [
        "-p",
        "16001",
        "-z",
        "16006",
        "-u",
        "1000,1001",
        "-g",
        "1002",
        "-m",
        "REDIRECT",
        "-i",
        "10.96.0.0/12,fd00:10:96::/112",
        "-x",
        "10.96.0.1/32,fd00::1",
        "-b",
        "8080,9090,8080",
        "-d",
        "9091,15021",
        "-q",
        "5432",
        "-o",
        "3306, 53",
        "-c",
        "net1",
    ];
    let v4 = rules(Family::V4, &arguments);
    assert_eq!(chain(&v4, "ISTIO_REDIRECT"), ["-p tcp -j REDIRECT --to-ports 16001"]);
    assert_eq!(chain(&v4, "ISTIO_IN_REDIRECT"), ["-p tcp -j REDIRECT --to-ports 16006"]);
    assert_eq!(
        chain(&v4, "ISTIO_INBOUND"),
        [
            "-i net1 -j RETURN",
            "-p tcp --dport 15000 -j RETURN",
            "-p tcp --dport 15020 -j RETURN",
            "-p tcp --dport 15021 -j RETURN",
            "-p tcp --dport 15090 -j RETURN",
            "-p tcp --dport 9091 -j RETURN",
            "-p tcp --dport 8080 -j ISTIO_IN_REDIRECT",
            "-p tcp --dport 9090 -j ISTIO_IN_REDIRECT",
        ]
    );
    let out = chain(&v4, "ISTIO_OUTPUT");
    assert_eq!(
        out[..3],
        ["-o net1 -j RETURN", "-p tcp --dport 53 -j RETURN", "-p tcp --dport 3306 -j RETURN"]
    );
    for id in ["uid-owner 1000", "uid-owner 1001", "gid-owner 1002"] {
        assert!(out.contains(&format!("-m owner --{id} -j RETURN")), "{id}: {out:#?}");
    }
    assert_eq!(
        out[out.len() - 4..],
        [
            "-d 127.0.0.1/32 -j RETURN",
            "-d 10.96.0.1/32 -j RETURN",
            "-p tcp --dport 5432 -j ISTIO_REDIRECT",
            "-d 10.96.0.0/12 -j ISTIO_REDIRECT",
        ]
    );
    let out = chain(&rules(Family::V6, &arguments), "ISTIO_OUTPUT");
    assert_eq!(
        out[out.len() - 3..],
        [
            "-d fd00::1/128 -j RETURN",
            "-p tcp --dport 5432 -j ISTIO_REDIRECT",
            "-d fd00:10:96::/112 -j ISTIO_REDIRECT",
        ]
    );
}

#[test]
fn nothing_selected_captures_nothing() {
    let rules = rules(Family::V4, &["-b", "", "-i", ""]);
    assert!(chain(&rules, "PREROUTING").is_empty(), "{rules:#?}");
    let out = chain(&rules, "ISTIO_OUTPUT");
    assert!(out.iter().all(|rule| rule.ends_with("-j RETURN")), "{out:#?}");
}

#[test]
fn wrong_flags_are_told_apart() {
    for (arguments, said) in [
        (["-m", "TPROXY"], "TPROXY is not supported: use REDIRECT"),
        (["-m", "NONE"], "the mode is REDIRECT"),
        (["-b", "http"], "\"http\": not a port"),
        (["-d", "80,99999"], "\"99999\": not a port"),
        (["-p", "0"], "not a port: a number from 1 to 65535"),
        (["-z", "0"], "not a port"),
        (["-b", "0"], "\"0\": not a port"),
        (["-o", "80,0"], "\"0\": not a port"),
        (["-x", "10.0.0.0/33"], "\"10.0.0.0/33\" is not a range of addresses"),
        (["-i", "all"], "\"all\" is not a range of addresses"),
        (["-c", "eth0 -j ACCEPT"], "not the name of a network interface"),
    ] {
        let arguments = ["iptables"].iter().chain(&arguments);
        let error = Command::try_parse_from(arguments).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn flags_that_contradict_each_other_are_refused_with_a_sentence() {
    for (flags, said) in [
        (&["-p", "15001", "-z", "15001"][..], "-p and -z are both 15001"),
        (&["-z", "15001"], "-p and -z are both 15001"),
        (&["-u", "", "-g", ""], "nothing would spare Envoy's own traffic"),
        (&["-u", " ,", "-g", ","], "nothing would spare Envoy's own traffic"),
        (&["-i", "fd00::/8"], "-i fd00::/8 names IPv6 only, which is not captured"),
    ] {
        let error = IptablesArgs::check(flags).unwrap_err();
        assert!(error.contains(said), "{flags:?}: {error}");
    }
    for flags in [
        &["-u", ""][..],
        &["-g", ""],
        &["-i", ""],
        &["-i", "fd00::/8,10.0.0.0/8"],
        &["-i", "fd00::/8", "--ipv6", "yes"],
        &["-i", "fd00::/8", "--ipv6", "auto"],
    ] {
        assert_eq!(IptablesArgs::check(flags), Ok(()), "{flags:?}");
    }
}

#[test]
fn a_family_that_the_ranges_leave_out_is_said_to_be_left_out() {
    let warning = |flags: &[&str], v6| {
        let arguments = ["iptables"].iter().chain(flags);
        Command::try_parse_from(arguments).unwrap().args.warning(v6).unwrap_or_default()
    };
    let said = warning(&["-i", "fd00::/8", "--ipv6", "yes"], true);
    assert!(said.contains("no outbound IPv4 traffic is captured"), "{said}");
    let said = warning(&["-i", "10.0.0.0/8", "--ipv6", "yes"], true);
    assert!(said.contains("no outbound IPv6 traffic is captured"), "{said}");
    for (flags, v6) in [
        (&["-i", "10.0.0.0/8"][..], false),
        (&["-i", "10.0.0.0/8,fd00::/8"], true),
        (&["-i", ""], true),
        (&[], true),
    ] {
        assert_eq!(warning(flags, v6), "", "{flags:?}");
    }
}

/// What iptables-save shows after our rules and a stranger's, who jumps to a chain of his own.
fn saved() -> String {
    let rules = rules(Family::V4, &[]);
    format!(
        "# Generated by iptables-save\n*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [3:180]\n\
         :ISTIO_INBOUND - [0:0]\n:ISTIO_IN_REDIRECT - [0:0]\n:ISTIO_OUTPUT - [0:0]\n\
         :ISTIO_REDIRECT - [0:0]\n:OTHERS - [0:0]\n-A PREROUTING -p tcp -j OTHERS\n{}\nCOMMIT\n",
        rules.join("\n")
    )
}

#[test]
fn twice_is_the_same_as_once() {
    let rules = rules(Family::V4, &[]);
    let (once, twice) = (apply(&rules, ""), apply(&rules, &saved()));
    let added: Vec<&str> = twice.lines().filter(|line| !once.lines().any(|o| o == *line)).collect();
    assert_eq!(
        added,
        ["-D PREROUTING -p tcp -j ISTIO_INBOUND", "-D OUTPUT -p tcp -j ISTIO_OUTPUT"]
    );
}

#[test]
fn clean_removes_what_is_ours_and_no_more() {
    let wanted = "\
*nat
-D PREROUTING -p tcp -j ISTIO_INBOUND
-D OUTPUT -p tcp -j ISTIO_OUTPUT
-F ISTIO_INBOUND
-F ISTIO_OUTPUT
-F ISTIO_IN_REDIRECT
-F ISTIO_REDIRECT
-X ISTIO_INBOUND
-X ISTIO_OUTPUT
-X ISTIO_IN_REDIRECT
-X ISTIO_REDIRECT
COMMIT
";
    assert_eq!(clean(&saved()).as_deref(), Some(wanted));
    assert_eq!(clean("*nat\n:PREROUTING ACCEPT [0:0]\n:OTHERS - [0:0]\nCOMMIT\n"), None);
}
