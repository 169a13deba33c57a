//! The thin shell: reads what the tables hold, and has iptables-restore change them.

use std::io::{ErrorKind, Write};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::output;

use super::{Capture, Family, IptablesArgs, Ipv6Mode, apply, clean};

/// The programs by their usual name, which is nf_tables' variant nowadays, then those for a kernel
/// that has only the older tables.
const VARIANTS: [&str; 2] = ["", "-legacy"];

/// Another program that changes the older tables may hold their lock.
const LOCK_SECONDS: &str = "30";

/// Does what the flags say, and prints what it told iptables-restore.
///
/// # Errors
/// A program, a capability or a part of the kernel is missing: one sentence each.
pub fn run(args: &IptablesArgs) -> Result<()> {
    if let Some(problem) = args.contradiction() {
        bail!(problem);
    }
    let capture = args.capture();
    let v6 = match args.ipv6 {
        Ipv6Mode::Auto => {
            has_ipv6(&std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default())
        }
        Ipv6Mode::Yes => true,
        Ipv6Mode::No => false,
    };
    if let Some(warning) = args.warning(v6).filter(|_| !args.clean) {
        output::eprint_line(warning);
    }
    if args.dry_run {
        let mut text = shown(Family::V4, &apply(&capture.rules(Family::V4), ""));
        if v6 {
            text += &shown(Family::V6, &apply(&capture.rules(Family::V6), ""));
        }
        return Ok(output::print(&text)?);
    }
    if args.clean {
        // An earlier run may have had another mind about IPv6.
        let families = [(Family::V4, true), (Family::V6, v6)];
        return families.into_iter().try_for_each(|(family, needed)| remove(family, needed));
    }
    set(Family::V4, &capture)?;
    if v6 {
        set(Family::V6, &capture)?;
    }
    print(&format!(
        "traffic is captured: outbound to {}, inbound to {}{}\n",
        capture.outbound_port,
        capture.inbound_port,
        if v6 { ", IPv6 as well" } else { "" },
    ));
    Ok(())
}

fn set(family: Family, capture: &Capture) -> Result<()> {
    let (variant, saved) = saved(family)?;
    let text = apply(&capture.rules(family), &saved);
    restore(family, variant, &text)?;
    print(&shown(family, &text));
    Ok(())
}

/// Where IPv6 is not `needed`, tables that cannot be read hold nothing of ours.
fn remove(family: Family, needed: bool) -> Result<()> {
    let (variant, saved) = match saved(family) {
        Ok(found) => found,
        Err(_) if !needed => return Ok(()),
        Err(error) => return Err(error),
    };
    match clean(&saved) {
        Some(text) => {
            restore(family, variant, &text)?;
            print(&shown(family, &text));
        }
        None => print(&format!("# {} has no rules of ours\n", program(family, variant, "save"))),
    }
    Ok(())
}

fn shown(family: Family, text: &str) -> String {
    format!("# {} --noflush\n{text}", program(family, "", "restore"))
}

/// What is done does not depend on somebody who reads of it: a pod's log may be gone or full.
fn print(text: &str) {
    _ = output::print(text);
}

fn program(family: Family, variant: &str, verb: &str) -> String {
    let name = match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    };
    format!("{name}{variant}-{verb}")
}

/// The table `nat` as it is, and the first variant of the programs that can read it.
fn saved(family: Family) -> Result<(&'static str, String)> {
    let mut first_error = None;
    for variant in VARIANTS {
        match call(&program(family, variant, "save"), &["-t", "nat"], "") {
            Ok(saved) => return Ok((variant, saved)),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    Err(first_error.unwrap_or_else(|| anyhow::anyhow!("no variant of iptables is known")))
}

fn restore(family: Family, variant: &str, text: &str) -> Result<()> {
    call(&program(family, variant, "restore"), &["--noflush", "--wait", LOCK_SECONDS], text)
        .map(|_| ())
}

/// What the program prints, given `input`.
fn call(program: &str, arguments: &[&str], input: &str) -> Result<String> {
    let spawned = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) if error.kind() == ErrorKind::NotFound => bail!(
            "{program} is not installed: the proxy image has it; elsewhere install the package iptables"
        ),
        Err(error) => return Err(error).with_context(|| format!("{program} cannot be started")),
    };
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ended early says why itself.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output =
        child.wait_with_output().with_context(|| format!("{program} cannot be awaited"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    bail!("{}", explain(program, said.trim()))
}

/// The sentence for what a program of iptables said when it failed.
fn explain(program: &str, said: &str) -> String {
    let said_in_one_line = said.split_whitespace().collect::<Vec<_>>().join(" ");
    let has = |text: &str| said.contains(text);
    let cause = if has("Permission denied") || has("must be root") || has("Operation not permitted")
    {
        "the rules may not be changed from here: run it as root with the capability NET_ADMIN \
         (securityContext of the container istio-init)"
    } else if has("Couldn't load") {
        "a part of iptables is missing: its folder xtables belongs into the image too"
    } else if has("Table does not exist")
        || has("can't initialize")
        || has("Protocol not supported")
    {
        "the node's kernel has no table nat: load its module there (modprobe nf_nat, or iptable_nat \
         and ip6table_nat for the older tables)"
    } else if has("missing kernel module")
        || has("No chain/target/match by that name")
        || has("RULE_APPEND failed")
    {
        "the node's kernel lacks a match or a target: load its modules there (modprobe xt_owner \
         xt_REDIRECT xt_tcpudp)"
    } else {
        return format!("{program} failed: {said_in_one_line}");
    };
    format!("{cause}; {program} said: {said_in_one_line}")
}

/// Whether an interface other than lo has an address that is more than the link's own, by the text
/// of /proc/net/if_inet6.
fn has_ipv6(if_inet6: &str) -> bool {
    if_inet6.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        matches!(fields[..], [_, _, _, "00", _, name] if name != "lo")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_in_a_sentence() {
        for (said, cause) in [
            (
                "iptables-save v1.8.9 (nf_tables): Could not fetch rule set generation id: Permission \
                 denied (you must be root)",
                "capability NET_ADMIN",
            ),
            (
                "iptables-restore v1.8.9 (nf_tables): Couldn't load match `owner':No such file or directory",
                "a part of iptables is missing",
            ),
            (
                "iptables-restore v1.8.9 (legacy): can't initialize iptables table `nat': Table does not \
                 exist (do you need to insmod?)",
                "modprobe nf_nat",
            ),
            (
                "Warning: Extension owner revision 0 not supported, missing kernel module?\n\
                 iptables-restore: line 7: RULE_APPEND failed (No such file or directory)",
                "modprobe xt_owner",
            ),
            ("something\nelse", "iptables-restore failed: something else"),
        ] {
            let sentence = explain("iptables-restore", said);
            assert!(sentence.contains(cause) && !sentence.contains('\n'), "{sentence}");
        }
        let missing = call("no-such-iptables-restore", &[], "").unwrap_err().to_string();
        assert!(missing.contains("no-such-iptables-restore is not installed"), "{missing}");
    }

    #[test]
    fn ipv6_counts_beyond_the_link() {
        let lo = "00000000000000000000000000000001 01 80 10 80       lo\n";
        let link = "fe8000000000000000fc00fffe000001 04 40 20 80     eth0\n";
        let global = "fd000000000000000000000000000002 04 40 00 82     eth0\n";
        assert!(!has_ipv6(""));
        assert!(!has_ipv6(&format!("{lo}{link}")));
        assert!(has_ipv6(&format!("{lo}{link}{global}")));
    }
}
