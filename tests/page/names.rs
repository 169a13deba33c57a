//! What strangers say is shown as text, and does nothing.

use envoy_types::pb::envoy::service::discovery::v3::DiscoveryRequest;
use envoy_types::pb::google::rpc::Status;
use serde_json::json;

use crate::browser::Browser;
use crate::mesh::Mesh;
use pilothouse_testkit::in_time;
use pilothouse_testkit::xds_client::{CDS, connect, node, open_sotw, sotw};

const NAME: &str =
    "<script>document.title='owned'</script>\"'><img src=x onerror=\"document.title='owned'\">";
/// A mark that turns the direction of what follows, and a line break.
const TURNED: &str = "abc\u{202e}fed\nnext";
const WORDS: &str =
    "<img src=x onerror=\"document.title='owned'\"> &amp; \u{202e}gnorw\nsecond line";

#[tokio::test]
async fn names_and_words_of_strangers_are_text() {
    let mesh = Mesh::start().await;
    let mut streams = Vec::new();
    for id in [NAME, TURNED] {
        let mut stream = open_sotw(connect(mesh.grpc).await).await;
        stream.say(DiscoveryRequest { node: Some(node(id)), ..sotw(CDS, &[]) }).await;
        let response = in_time("clusters", stream.response()).await;
        let error = Status { code: 3, message: WORDS.to_owned(), ..Status::default() };
        let rejected = DiscoveryRequest {
            response_nonce: response.nonce,
            error_detail: Some(error),
            ..sotw(CDS, &[])
        };
        stream.say(rejected).await;
        streams.push(stream);
    }
    let browser = Browser::open(&mesh.url()).await;
    let turned = "abc‹U+202E›fed‹U+000A›next";
    browser.shows(".rows", &[NAME, turned, "REJECTED"]).await;
    for hash in ["#/picture", "#/proxies/1", "#/proxies/2"] {
        browser.show(hash).await;
        // The picture shortens names.
        let name = if hash == "#/picture" {
            &NAME[..20]
        } else if hash.ends_with('1') {
            NAME
        } else {
            turned
        };
        browser.shows("main", &[name]).await;
        assert_eq!(browser.count("main script, main img, main iframe").await, 0, "{hash}");
    }
    browser
        .shows(".rejection .words", &["<img src=x onerror=", "&amp;", "‹U+202E›gnorw\nsecond line"])
        .await;
    browser.screenshot("names", false).await;
    // A search for it is text as well, in the address and in what is asked of the server.
    let hash = format!("#/proxies?search={}", "%3Cscript%3E");
    browser.show(&hash).await;
    browser.shows(".count", &["1 of 2 proxies"]).await;
    browser.show("#/proxies/%3Cimg%20src=x%20onerror=alert(1)%3E").await;
    browser.shows("main", &["This proxy has gone", "<img src=x onerror=alert(1)>"]).await;
    browser.show("#/services/%3Cb%3E/x").await;
    browser.shows("main", &["This Service has gone"]).await;
    let title = browser.run("return document.title", vec![]).await;
    assert_ne!(title, json!("owned"));
    drop(streams);
    browser.close().await;
}
