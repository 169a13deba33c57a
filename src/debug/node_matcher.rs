//! Which proxies a CSDS request is about: `envoy.type.matcher.v3.NodeMatcher`.
//!
//! Of a node's metadata there is what `client_status::node` shows: `NAMESPACE`, `CLUSTER_ID`, `ISTIO_VERSION`
//! and `LABELS`, all of them texts.

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::value_matcher::MatchPattern as ValuePattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{
    NodeMatcher, StringMatcher, StructMatcher, ValueMatcher, struct_matcher,
};
use envoy_types::pb::google::protobuf::Value;
use envoy_types::pb::google::protobuf::value::Kind;
use thiserror::Error;

/// Matchers in one request.
const MAX_MATCHERS: usize = 64;

/// A request that cannot be answered as it is meant.
#[derive(Debug, Error, PartialEq, Eq)]
pub(super) enum MatcherError {
    #[error("{0} node matchers, the limit is {MAX_MATCHERS}")]
    TooMany(usize),
    #[error("{0} is not supported in a node matcher: use exact, prefix, suffix or contains")]
    Unsupported(&'static str),
}

/// Checks that all of these are understood.
pub(super) fn check(matchers: &[NodeMatcher]) -> Result<(), MatcherError> {
    if matchers.len() > MAX_MATCHERS {
        return Err(MatcherError::TooMany(matchers.len()));
    }
    for matcher in matchers {
        matcher.node_id.as_ref().map_or(Ok(()), check_text)?;
        let values = matcher.node_metadatas.iter().filter_map(|one| one.value.as_ref());
        values.into_iter().try_for_each(check_value)?;
    }
    Ok(())
}

fn check_text(matcher: &StringMatcher) -> Result<(), MatcherError> {
    match &matcher.match_pattern {
        Some(MatchPattern::SafeRegex(_)) => Err(MatcherError::Unsupported("safe_regex")),
        Some(MatchPattern::Custom(_)) => Err(MatcherError::Unsupported("custom")),
        _ => Ok(()),
    }
}

fn check_value(matcher: &ValueMatcher) -> Result<(), MatcherError> {
    match &matcher.match_pattern {
        Some(ValuePattern::StringMatch(text)) => check_text(text),
        Some(ValuePattern::OrMatch(or)) => or.value_matchers.iter().try_for_each(check_value),
        _ => Ok(()),
    }
}

/// Whether one of them matches; a request without any is about all nodes.
pub(super) fn matches(matchers: &[NodeMatcher], node: &Node) -> bool {
    matchers.is_empty()
        || matchers.iter().any(|matcher| {
            matcher.node_id.as_ref().is_none_or(|text| matches_text(text, &node.id))
                && matcher.node_metadatas.iter().all(|one| matches_metadata(one, node))
        })
}

fn matches_metadata(matcher: &StructMatcher, node: &Node) -> bool {
    let mut keys = matcher.path.iter().map(|one| match &one.segment {
        Some(struct_matcher::path_segment::Segment::Key(key)) => key.as_str(),
        None => "",
    });
    let fields = |value: &Value| match &value.kind {
        Some(Kind::StructValue(inner)) => Some(inner.fields.clone()),
        _ => None,
    };
    let mut found = keys
        .next()
        .and_then(|key| node.metadata.as_ref().and_then(|all| all.fields.get(key)).cloned());
    for key in keys {
        found = found.as_ref().and_then(fields).and_then(|mut inner| inner.remove(key));
    }
    matcher.value.as_ref().is_none_or(|matcher| matches_value(matcher, found.as_ref()))
}

fn matches_value(matcher: &ValueMatcher, found: Option<&Value>) -> bool {
    match (&matcher.match_pattern, found) {
        (Some(ValuePattern::PresentMatch(present)), found) => *present == found.is_some(),
        (Some(ValuePattern::OrMatch(or)), found) => {
            or.value_matchers.iter().any(|one| matches_value(one, found))
        }
        (
            Some(ValuePattern::StringMatch(matcher)),
            Some(Value { kind: Some(Kind::StringValue(text)) }),
        ) => matches_text(matcher, text),
        _ => false,
    }
}

fn matches_text(matcher: &StringMatcher, text: &str) -> bool {
    let fold = |text: &str| match matcher.ignore_case {
        true => text.to_ascii_lowercase(),
        false => text.to_owned(),
    };
    let text = fold(text);
    match &matcher.match_pattern {
        Some(MatchPattern::Exact(wanted)) => text == fold(wanted),
        Some(MatchPattern::Prefix(wanted)) => text.starts_with(&fold(wanted)),
        Some(MatchPattern::Suffix(wanted)) => text.ends_with(&fold(wanted)),
        Some(MatchPattern::Contains(wanted)) => text.contains(&fold(wanted)),
        // `check` has refused these.
        Some(MatchPattern::SafeRegex(_) | MatchPattern::Custom(_)) => false,
        None => true,
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::r#type::matcher::v3::{OrMatcher, RegexMatcher};
    use envoy_types::pb::google::protobuf::Struct;
    use struct_matcher::{PathSegment, path_segment::Segment};

    use super::*;

    fn value(kind: Kind) -> Value {
        Value { kind: Some(kind) }
    }

    fn node() -> Node {
        let text = |text: &str| value(Kind::StringValue(text.to_owned()));
        let labels = Struct { fields: [("app".to_owned(), text("reviews"))].into() };
        let fields = [
            ("NAMESPACE".to_owned(), text("shop")),
            ("LABELS".to_owned(), value(Kind::StructValue(labels))),
        ];
        let metadata = Some(Struct { fields: fields.into() });
        Node { id: "sidecar~10.0.0.1~Web-0.shop~x".to_owned(), metadata, ..Node::default() }
    }

    fn text(pattern: MatchPattern) -> StringMatcher {
        StringMatcher { match_pattern: Some(pattern), ignore_case: false }
    }

    fn by_id(pattern: MatchPattern) -> NodeMatcher {
        NodeMatcher { node_id: Some(text(pattern)), node_metadatas: Vec::new() }
    }

    fn by_metadata(path: &[&str], pattern: ValuePattern) -> NodeMatcher {
        let path =
            path.iter().map(|key| PathSegment { segment: Some(Segment::Key((*key).into())) });
        let value = Some(ValueMatcher { match_pattern: Some(pattern) });
        let one = StructMatcher { path: path.collect(), value };
        NodeMatcher { node_id: None, node_metadatas: vec![one] }
    }

    #[test]
    fn any_of_the_matchers_and_all_within_one_match() {
        assert!(matches(&[], &node()));
        let yes = by_id(MatchPattern::Contains("~Web-0.".to_owned()));
        let no = by_id(MatchPattern::Exact("Web-0.shop".to_owned()));
        assert!(matches(&[no.clone(), yes.clone()], &node()) && !matches(&[no], &node()));
        let of_another = by_metadata(
            &["NAMESPACE"],
            ValuePattern::StringMatch(text(MatchPattern::Exact("edge".to_owned()))),
        );
        let both = NodeMatcher { node_id: yes.node_id, ..of_another };
        assert!(!matches(&[both], &node()));
    }

    #[test]
    fn texts_match_in_four_ways_and_without_regard_to_case() {
        let id = |pattern| matches(&[by_id(pattern)], &node());
        assert!(id(MatchPattern::Prefix("sidecar~".to_owned())));
        assert!(id(MatchPattern::Suffix("~x".to_owned())));
        assert!(!id(MatchPattern::Contains("web-0".to_owned())));
        let mut matcher = by_id(MatchPattern::Contains("wEB-0".to_owned()));
        if let Some(text) = &mut matcher.node_id {
            text.ignore_case = true;
        }
        assert!(matches(&[matcher], &node()));
    }

    #[test]
    fn metadata_is_looked_up_by_its_path() {
        let is =
            |wanted: &str| ValuePattern::StringMatch(text(MatchPattern::Exact(wanted.to_owned())));
        let found = |path: &[&str], pattern| matches(&[by_metadata(path, pattern)], &node());
        assert!(found(&["LABELS", "app"], is("reviews")) && !found(&["LABELS", "app"], is("web")));
        assert!(!found(&["LABELS", "app", "more"], is("reviews")) && !found(&[], is("reviews")));
        assert!(found(&["LABELS", "version"], ValuePattern::PresentMatch(false)));
        let or = OrMatcher {
            value_matchers: ["edge", "shop"]
                .map(|one| ValueMatcher { match_pattern: Some(is(one)) })
                .into(),
        };
        assert!(found(&["NAMESPACE"], ValuePattern::OrMatch(or)));
        assert!(!found(&["NAMESPACE"], ValuePattern::BoolMatch(true)));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let regex = MatchPattern::SafeRegex(RegexMatcher::default());
        let error = check(&[by_id(regex.clone())]);
        assert_eq!(error, Err(MatcherError::Unsupported("safe_regex")));
        let within = ValuePattern::StringMatch(text(regex));
        assert!(check(&[by_metadata(&["NAMESPACE"], within)]).is_err());
        assert_eq!(check(&vec![NodeMatcher::default(); 65]), Err(MatcherError::TooMany(65)));
        assert_eq!(check(&[NodeMatcher::default()]), Ok(()));
    }
}
