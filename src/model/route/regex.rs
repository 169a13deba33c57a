//! Regular expressions that every Envoy takes.
//!
//! Envoy hands them to RE2 byte by byte (Latin-1; seen with Envoy 1.40: "é" is two instructions), and a refused
//! expression is a rejected route table. So an expression passes here only if its syntax is RE2's as well, means
//! the same there, and its program cannot be larger than what an Envoy can be made to allow. What is not known
//! to pass does not.

use regex_syntax::ast::parse::ParserBuilder;
use regex_syntax::ast::{
    AssertionKind, Ast, ClassAsciiKind, ClassBracketed, ClassPerl, ClassPerlKind, ClassSet,
    ClassSetItem, Flag, Flags, FlagsItemKind, GroupKind, Literal, LiteralKind, RepetitionKind,
    RepetitionRange,
};

/// The largest program that is served. Envoy itself allows 100 instructions, unless a matcher says otherwise.
pub const MAX_PROGRAM_SIZE: usize = 32_000;
/// The instructions of an empty expression.
const EMPTY_PROGRAM: usize = 4;
/// What an endless repetition costs, as if so many copies may be left out: of what may be empty it is several
/// loops (seen with Envoy 1.40: `(^)*?` are 11 instructions, of which 4 are around it).
const ENDLESS: usize = 3;
/// RE2's limit, of nested repetitions together.
const MAX_REPETITION: usize = 1000;

/// The most instructions that the expression can have in RE2.
///
/// # Errors
/// Why not every Envoy would take it, for people. Its size alone is no reason, see [`MAX_PROGRAM_SIZE`].
pub fn program_size(pattern: &str) -> Result<usize, String> {
    if pattern.is_empty() {
        return Err("it is empty".to_owned());
    }
    if !pattern.is_ascii() {
        return Err("it has characters that are not ASCII, and Envoy compares bytes".to_owned());
    }
    if pattern.bytes().any(|byte| byte.is_ascii_control()) {
        return Err("it has control characters: write them as \\t or \\x1f".to_owned());
    }
    let ast = ParserBuilder::new().nest_limit(50).build().parse(pattern);
    let ast = ast.map_err(|error| error.kind().to_string())?;
    Ok(Sizer { pattern }.size(&ast, 1)?.saturating_add(EMPTY_PROGRAM))
}

struct Sizer<'a> {
    pattern: &'a str,
}

impl Sizer<'_> {
    /// `repeated` is how often repetitions around it multiply it.
    fn size(&self, ast: &Ast, repeated: usize) -> Result<usize, String> {
        Ok(match ast {
            Ast::Empty(_) => 1,
            Ast::Flags(set) => {
                check_flags(&set.flags)?;
                1
            }
            Ast::Literal(literal) => {
                check_literal(literal)?;
                1
            }
            Ast::Dot(_) => 2,
            Ast::Assertion(assertion) => match assertion.kind {
                AssertionKind::StartLine
                | AssertionKind::EndLine
                | AssertionKind::StartText
                | AssertionKind::EndText
                | AssertionKind::WordBoundary
                | AssertionKind::NotWordBoundary => 1,
                _ => return Err("\\<, \\> and \\b{…} are not of RE2".to_owned()),
            },
            Ast::ClassUnicode(_) => return Err(no_unicode_classes()),
            Ast::ClassPerl(class) => perl_ranges(class),
            Ast::ClassBracketed(class) => bracketed_ranges(class)?,
            Ast::Repetition(repetition) => {
                if matches!(*repetition.ast, Ast::Repetition(_)) {
                    return Err("a repetition of a repetition needs a group: (?:…)".to_owned());
                }
                let span = repetition.op.span;
                let written = self.pattern.get(span.start.offset..span.end.offset);
                let (copies, optional) = match &repetition.op.kind {
                    RepetitionKind::Range(range) => {
                        // To RE2 `{,n}` and `{ 1 }` are the text itself.
                        let digits = |text: &str| {
                            text.strip_prefix('{').is_some_and(|rest| {
                                rest.starts_with(|first: char| first.is_ascii_digit())
                            }) && !text.contains(' ')
                        };
                        if !written.is_some_and(digits) {
                            return Err("a repetition is {n}, {n,} or {n,m}".to_owned());
                        }
                        repetition_counts(range)
                    }
                    RepetitionKind::ZeroOrOne => (1, 1),
                    RepetitionKind::ZeroOrMore | RepetitionKind::OneOrMore => (1, ENDLESS),
                };
                let repeated = repeated.saturating_mul(copies.max(1));
                if repeated > MAX_REPETITION {
                    return Err(format!("more than {MAX_REPETITION} repetitions"));
                }
                let one = self.size(&repetition.ast, repeated)?;
                one.saturating_mul(copies.max(1)).saturating_add(2 * optional)
            }
            Ast::Group(group) => {
                let own = match &group.kind {
                    GroupKind::CaptureIndex(_) => 2,
                    GroupKind::CaptureName { starts_with_p: false, .. } => {
                        return Err(
                            "older Envoys take a named group as (?P<name>…) alone".to_owned()
                        );
                    }
                    GroupKind::CaptureName { name, .. } => {
                        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
                        if !name.name.bytes().all(word) {
                            return Err("a group's name is of letters, digits and '_'".to_owned());
                        }
                        2
                    }
                    GroupKind::NonCapturing(flags) => {
                        check_flags(flags)?;
                        0
                    }
                };
                own + self.size(&group.ast, repeated)?
            }
            Ast::Alternation(alternation) => self.sum(&alternation.asts, repeated, 1)?,
            Ast::Concat(concat) => self.sum(&concat.asts, repeated, 0)?,
        })
    }

    fn sum(&self, parts: &[Ast], repeated: usize, each: usize) -> Result<usize, String> {
        parts.iter().try_fold(0_usize, |sum, part| {
            Ok(sum.saturating_add(self.size(part, repeated)?).saturating_add(each))
        })
    }
}

/// How many copies there are in the program, and how many of them may be left out.
fn repetition_counts(range: &RepetitionRange) -> (usize, usize) {
    let count = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
    match range {
        RepetitionRange::Exactly(n) => (count(*n), 0),
        RepetitionRange::AtLeast(n) => (count(*n), ENDLESS),
        RepetitionRange::Bounded(least, most) => {
            (count(*most), count(*most).saturating_sub(count(*least)))
        }
    }
}

fn check_flags(flags: &Flags) -> Result<(), String> {
    for item in &flags.items {
        match item.kind {
            FlagsItemKind::Negation
            | FlagsItemKind::Flag(
                Flag::CaseInsensitive | Flag::MultiLine | Flag::DotMatchesNewLine | Flag::SwapGreed,
            ) => {}
            FlagsItemKind::Flag(_) => return Err("the flags of RE2 are i, m, s and U".to_owned()),
        }
    }
    Ok(())
}

fn check_literal(literal: &Literal) -> Result<(), String> {
    if !literal.c.is_ascii() {
        return Err("it has characters that are not ASCII, and Envoy compares bytes".to_owned());
    }
    match &literal.kind {
        LiteralKind::Verbatim
        | LiteralKind::Meta
        | LiteralKind::Superfluous
        | LiteralKind::Special(_) => Ok(()),
        LiteralKind::HexFixed(kind) | LiteralKind::HexBrace(kind) => match kind {
            regex_syntax::ast::HexLiteralKind::X => Ok(()),
            _ => Err("\\u and \\U are not of RE2: write \\x".to_owned()),
        },
        LiteralKind::Octal => Err("octal numbers are not served: write \\x".to_owned()),
    }
}

fn no_unicode_classes() -> String {
    "\\p{…} is a class of characters, and Envoy compares bytes".to_owned()
}

fn perl_ranges(class: &ClassPerl) -> usize {
    let ranges = match class.kind {
        ClassPerlKind::Digit => 1,
        ClassPerlKind::Space => 3,
        ClassPerlKind::Word => 4,
    };
    ranges + usize::from(class.negated)
}

/// The ranges of bytes in the class, at most; twice as many, for letters of either case.
fn bracketed_ranges(class: &ClassBracketed) -> Result<usize, String> {
    let ClassSet::Item(item) = &class.kind else {
        return Err("&&, -- and ~~ in a class are not of RE2".to_owned());
    };
    Ok(2 * set_ranges(item)? + usize::from(class.negated))
}

fn set_ranges(item: &ClassSetItem) -> Result<usize, String> {
    Ok(match item {
        ClassSetItem::Empty(_) => 0,
        ClassSetItem::Literal(literal) => {
            check_literal(literal)?;
            1
        }
        ClassSetItem::Range(range) => {
            check_literal(&range.start)?;
            check_literal(&range.end)?;
            1
        }
        ClassSetItem::Ascii(class) => {
            let ranges = match class.kind {
                ClassAsciiKind::Punct | ClassAsciiKind::Word => 4,
                _ => 3,
            };
            ranges + usize::from(class.negated)
        }
        ClassSetItem::Unicode(_) => return Err(no_unicode_classes()),
        ClassSetItem::Perl(class) => perl_ranges(class),
        ClassSetItem::Bracketed(_) => {
            return Err("a class within a class is not of RE2: write \\[".to_owned());
        }
        ClassSetItem::Union(union) => {
            let mut ranges = 0;
            for item in &union.items {
                ranges += set_ranges(item)?;
            }
            ranges
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_re2_has_passes() {
        for pattern in [
            "a",
            "/v[0-9]+/users/.*",
            r"^/a\.b\-c$",
            r"\d+\w*\s?\D\W\S",
            "(?i)abc|def",
            "(?P<name>a)(?P<other>b)(?:c)",
            "[[:alpha:]]+[^[:^digit:]]",
            "a{2,5}?b{3}c{1,}",
            r"\x41\x{42}[\x41-\x5a]",
            "[]a][^]a][a-]",
            r"\bword\B",
            "v1|v2|v3|",
            "(?s-i:.)*",
        ] {
            assert!(program_size(pattern).is_ok(), "{pattern}: {:?}", program_size(pattern));
        }
    }

    #[test]
    fn what_re2_lacks_or_reads_otherwise_does_not() {
        for (pattern, expected) in [
            ("", "empty"),
            ("(", "unclosed group"),
            ("é", "not ASCII"),
            ("a\nb", "control characters"),
            ("(?=a)", "look-around"),
            (r"(a)\1", "backreferences"),
            ("a**", "a repetition of a repetition"),
            ("a+{2}", "a repetition of a repetition"),
            ("a{,5}", "repetition quantifier expects"),
            ("a{ 2 }", "a repetition is {n}"),
            ("a{1001}", "more than 1000"),
            ("(a{100}){11}", "more than 1000"),
            ("(?x)a", "the flags of RE2"),
            ("(?u:a)", "the flags of RE2"),
            (r"\pL", "\\p{…} is a class"),
            (r"[\p{Greek}]", "\\p{…} is a class"),
            ("[a&&b]", "not of RE2"),
            ("[a--b]", "not of RE2"),
            ("[a[b]]", "a class within a class"),
            (r"\<a", "not of RE2"),
            (r"\b{start}a", "not of RE2"),
            (r"\u0041", "\\u and \\U"),
            (r"\xff", "not ASCII"),
            ("(?<n>a)", "(?P<name>…) alone"),
        ] {
            let error = program_size(pattern).expect_err(pattern);
            assert!(error.contains(expected), "{pattern}: {error}");
        }
    }

    /// The sizes are RE2's own, as Envoy 1.40 tells them.
    #[test]
    fn a_program_is_not_larger_than_it_is_taken_for() {
        for (pattern, size) in [
            ("a", 5),
            ("abc", 7),
            (".*", 6),
            ("/v[0-9]+/users/.*", 17),
            ("(?i)abc", 7),
            ("[^/]+", 7),
            (r"\d+", 6),
            (r"\w+", 8),
            ("(a|b|c)*", 7),
            ("a{10}", 14),
            ("a{0,10}", 24),
        ] {
            let taken = program_size(pattern).unwrap();
            assert!(size <= taken && taken <= 3 * size, "{pattern}: {taken}");
        }
    }
}
