//! The page of metrics in Prometheus' older text format, made from the one in OpenMetrics.
//!
//! The client library writes OpenMetrics alone. Who does not ask for that (`curl`, `promtool check
//! metrics`, agents that merge pages) gets the text format 0.0.4, as from Go's client: `promtool` of
//! Prometheus 2.42 reads no other. The samples are the same; what differs is the heads of families: a
//! counter's and an info's has the name of its sample, an info is a gauge, `unknown` is called `untyped`, and
//! there is no mark of the end. Prometheus refuses a whole page for one type that it does not know.
//!
//! Pure; knows nothing of what is counted. Of both wings: the agent's page stands before Envoy's, which is in
//! the text format.

/// What the page is to be, as a `Content-Type`.
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
pub const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Whether an `Accept` header asks for OpenMetrics. Prometheus does, and weighs other formats below it; a
/// format that is refused (`q=0`) is not asked for.
pub fn wants_openmetrics(accept: &str) -> bool {
    accept.split(',').any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let named = parts.next().is_some_and(|kind| kind == "application/openmetrics-text");
        let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse::<f32>().ok());
        named && weight.is_none_or(|weight| weight > 0.0)
    })
}

/// A page of OpenMetrics as the text format 0.0.4.
pub fn to_prometheus_text(page: &str) -> String {
    let mut text = String::with_capacity(page.len() + 512);
    // OpenMetrics has HELP before TYPE, and the name in HELP depends on the type.
    let mut help: Option<(&str, &str)> = None;
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = Some(rest.split_once(' ').unwrap_or((rest, "")));
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                _ => ("", kind),
            };
            if let Some((_, words)) = help.take().filter(|(of, _)| *of == name) {
                text.push_str(&format!("# HELP {name}{suffix} {words}\n"));
            }
            text.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_rewritten_and_samples_are_not() {
        let page = "# HELP a Counted\n# TYPE a counter\na_total{x=\"# y\"} 1\n\
                    # HELP b Istio's\n# TYPE b unknown\nb 2\n\
                    # TYPE c gauge\n# UNIT c bytes\nc NaN\n\
                    # HELP d What runs\n# TYPE d info\nd_info{v=\"1\"} 1\n# EOF\n";
        let wanted = "# HELP a_total Counted\n# TYPE a_total counter\na_total{x=\"# y\"} 1\n\
                      # HELP b Istio's\n# TYPE b untyped\nb 2\n\
                      # TYPE c gauge\nc NaN\n\
                      # HELP d_info What runs\n# TYPE d_info gauge\nd_info{v=\"1\"} 1\n";
        assert_eq!(to_prometheus_text(page), wanted);
    }

    #[test]
    fn openmetrics_is_for_those_who_ask() {
        for asks in [
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;\
             q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            "text/plain;q=0.5, application/openmetrics-text ; q=0.2",
        ] {
            assert!(wants_openmetrics(asks), "{asks}");
        }
        for asks in ["", "*/*", "text/plain", "application/openmetrics-text;q=0"] {
            assert!(!wants_openmetrics(asks), "{asks}");
        }
    }
}
