//! The documents of a file: YAML or JSON, as they stand in the text. One to which nothing is done
//! comes out byte for byte; of one that is changed the lines before its first key stay.

use super::node::Node;
use super::yaml_writer;
use crate::yaml;

/// Reads a file and hands each object to `edit`, which says whether it changed it. Gives the text
/// with the changes.
///
/// # Errors
/// A document that cannot be read, or what `edit` said; both with the document's place.
pub(super) fn edit(
    text: &str,
    mut edit: impl FnMut(&mut Node) -> Result<bool, String>,
) -> Result<String, String> {
    let mut printed = String::with_capacity(text.len() * 2);
    let mut lines_before = 0;
    for (index, document) in split(text).into_iter().enumerate() {
        let place = |error: String| format!("document {}: {error}", index + 1);
        printed += &edit_document(document, lines_before, &mut edit).map_err(place)?;
        lines_before += document.matches('\n').count();
    }
    Ok(printed)
}

/// Cuts before each `---` and after each `...`; YAML allows neither at the start of a line of content.
/// Together the pieces are the text.
fn split(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let (mut start, mut at) = (0, 0);
    for line in text.split_inclusive('\n') {
        if is_marker(line, "---") && text[start..at].lines().any(|line| !line.starts_with('%')) {
            pieces.push(&text[start..at]);
            start = at;
        }
        at += line.len();
        if is_marker(line, "...") {
            pieces.push(&text[start..at]);
            start = at;
        }
    }
    pieces.push(&text[start..]);
    pieces
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
}

fn edit_document(
    document: &str,
    lines_before: usize,
    edit: &mut impl FnMut(&mut Node) -> Result<bool, String>,
) -> Result<String, String> {
    let (head, rest) = document.split_at(head_len(document));
    let content = rest.trim_start_matches('\u{feff}');
    if content.trim().is_empty() {
        return Ok(document.to_owned());
    }
    if content.trim_start().starts_with('{')
        && let Some(printed) = edit_json(content, edit)?
    {
        return Ok(format!("{head}{printed}"));
    }
    let mut object = read_yaml(document, lines_before)?;
    if !edit(&mut object)? {
        return Ok(document.to_owned());
    }
    let end = content.lines().position(|line| is_marker(line, "..."));
    let tail = end.map_or("", |_| "...\n");
    // Content on the line of the marker, which then is no part of the head.
    let head = if is_marker(content, "---") { format!("{head}---\n") } else { head.to_owned() };
    Ok(format!("{head}{}{tail}", yaml_writer::write(&object)))
}

/// Length of what stands before the content: the marker, comments, directives and empty lines.
fn head_len(document: &str) -> usize {
    let in_head = |line: &&str| {
        let line = line.trim_start_matches('\u{feff}');
        let after = if is_marker(line, "---") { &line[3..] } else { line };
        let after = after.trim();
        after.is_empty() || after.starts_with('#') || line.starts_with('%')
    };
    document.split_inclusive('\n').take_while(in_head).map(str::len).sum()
}

/// One JSON object after the other; none where it is not JSON but YAML that looks like it.
fn edit_json(
    text: &str,
    edit: &mut impl FnMut(&mut Node) -> Result<bool, String>,
) -> Result<Option<String>, String> {
    let mut printed = String::new();
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Node>();
    let mut start = 0;
    while let Some(value) = values.next() {
        let Ok(mut object) = value else { return Ok(None) };
        let end = values.byte_offset();
        if edit(&mut object)? {
            let source = &text[start..end];
            printed += &source[..source.len() - source.trim_start().len()];
            printed += &if source.trim().contains('\n') {
                serde_json::to_string_pretty(&object)
            } else {
                serde_json::to_string(&object)
            }
            .map_err(|error| error.to_string())?;
        } else {
            printed += &text[start..end];
        }
        start = end;
    }
    Ok(Some(printed + &text[start..]))
}

/// Reads as kubectl does: YAML 1.1 (`yes` is true, `0644` is octal), the last of equal keys counts.
pub(super) fn read_yaml(text: &str, lines_before: usize) -> Result<Node, String> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: usize::MAX,
            max_nodes: usize::MAX,
            max_total_scalar_bytes: usize::MAX,
        },
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins,
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    let read = |text: &str| serde_saphyr::from_str_with_options(text, options.clone());
    // Errors name the line of the file, so the text is read once more, where it stands there.
    read(text).or_else(|_| {
        let placed = format!("{}{text}", "\n".repeat(lines_before));
        read(&placed).map_err(|error: serde_saphyr::Error| yaml::explain(&error, placed.as_bytes()))
    })
}
