//! `/debug`, the list of pages for people, and `/debug/list`, the same for programs.

use super::{DebugError, DebugHandler, DebugState, HANDLERS, Parameters, ResponseWriter, page};
use crate::version::VERSION;

/// The HTML page. Nothing in it comes from anybody else.
pub(super) fn index() -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Pilothouse</title>\n\
         <style>body {{ font-family: sans-serif; margin: 2em }} td {{ padding: .3em 1em .3em 0 }}\
         </style></head>\n<body><h1>Pilothouse {VERSION}</h1>\n\
         <p>Every page is JSON, on one line without <code>pretty</code>. \
         <a href=\"/ready\">/ready</a> says whether proxies are served, and <a href=\"/\">the page</a> \
         shows it all, live.</p>\n\
         <table>\n<tr><th>page</th><th>parameters</th><th>says</th></tr>\n{}{}</table></body></html>\n",
        HANDLERS.iter().map(row).collect::<String>(),
        page::API.iter().map(template).collect::<String>()
    )
}

fn row(page: &DebugHandler) -> String {
    let DebugHandler { path, parameters, help, .. } = page;
    format!(
        "<tr><td><a href=\"{path}?pretty\">{path}</a></td><td>{}</td><td>{help}</td></tr>\n",
        parameters.join(", ")
    )
}

/// The same without a link where the path has parts to be filled in.
fn template(page: &DebugHandler) -> String {
    let DebugHandler { path, parameters, help, .. } = page;
    match path.contains('{') {
        true => {
            format!("<tr><td>{path}</td><td>{}</td><td>{help}</td></tr>\n", parameters.join(", "))
        }
        false => row(page),
    }
}

/// Without itself, as in Istio.
pub(super) fn list(
    _: &DebugState,
    _: &Parameters,
    writer: &mut ResponseWriter,
) -> Result<(), DebugError> {
    let names = HANDLERS.iter().filter_map(|page| page.path.strip_prefix("/debug/"));
    let mut names: Vec<_> = names.filter(|name| *name != "list").collect();
    names.sort_unstable();
    writer.json(&names)
}
