//! What reading manifests takes.

use std::fmt::Write as _;

use crate::harness::{Place, Running};

/// Texts that are small beside what a careless reader makes of them, of kinds that cost nothing to serve.
fn texts() -> [(&'static str, String); 2] {
    let documents = "1\n".repeat(500_000);
    let mut items = String::new();
    for number in 0..60_000 {
        let comma = if number > 0 { "," } else { "" };
        write!(
            items,
            r#"{comma}{{"apiVersion":"v1","kind":"Secret","metadata":{{"name":"s-{number}","labels":{{"app":"web"}}}}}}"#
        )
        .unwrap();
    }
    [
        ("many documents that are nothing", documents),
        // As kubectl puts it, the kind behind the items.
        ("a long list", format!(r#"{{"apiVersion":"v1","items":[{items}],"kind":"List"}}"#)),
    ]
}

#[tokio::test]
async fn a_file_costs_memory_in_proportion_to_its_length() {
    let peak = async |text: Option<&str>| {
        let place = Place::new();
        if let Some(text) = text {
            std::fs::write(place.folder.path().join("manifests/more.json"), text).unwrap();
        }
        let serve = Running::start(place.serve(&[]).env("PILOTHOUSE_LOG", "off"));
        place.is_ready().await;
        serve.peak()
    };
    let without = peak(None).await;
    for (what, text) in texts() {
        let more = peak(Some(&text)).await.saturating_sub(without);
        // The text itself, what is kept of a list's items, and what an allocator keeps of both.
        let bound = 4 * text.len() + (16 << 20);
        assert!(
            more <= bound,
            "{what}: {} KiB of text took {} KiB of memory, more than {}",
            text.len() >> 10,
            more >> 10,
            bound >> 10
        );
    }
}
