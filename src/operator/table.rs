//! A table for people. Cells are escaped here, so that no name that a stranger has chosen can write to the
//! terminal; a column that may be shortened is, where a terminal is narrower than the table.

use std::fmt::Write as _;

use crate::escape;

/// Between two columns, as kubectl has it.
const GAP: usize = 3;
/// A column is not made narrower than this.
const NARROWEST: usize = 8;

/// How a cell is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tone {
    #[default]
    Plain,
    Good,
    Waiting,
    Bad,
    Faint,
}

impl Tone {
    /// The parameter of SGR.
    fn code(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Good => Some("32"),
            Self::Waiting => Some("33"),
            Self::Bad => Some("31"),
            Self::Faint => Some("2"),
        }
    }
}

/// Text on one line, nothing unsafe in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// Nothing to say is a hyphen.
    pub(super) fn new(text: &str) -> Self {
        let text = if text.is_empty() { "-" } else { text };
        Self { text: escape::line(text).into_owned(), tone: Tone::Plain }
    }

    pub(super) fn toned(text: &str, tone: Tone) -> Self {
        Self { tone, ..Self::new(text) }
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

/// For what it is printed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Screen {
    /// Columns of the terminal; `None` where nothing is cut.
    pub(super) width: Option<usize>,
    pub(super) colors: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub(super) name: &'static str,
    /// Whether it may be shortened: a name, not a state.
    pub(super) elastic: bool,
}

/// A column whose cells are always whole.
pub(super) const fn rigid(name: &'static str) -> Column {
    Column { name, elastic: false }
}

/// A column that may be shortened.
pub(super) const fn elastic(name: &'static str) -> Column {
    Column { name, elastic: true }
}

#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) columns: Vec<Column>,
    pub(super) rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(super) fn new(columns: &[Column]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Lines with no blanks at their ends.
    pub(super) fn render(&self, screen: Screen) -> String {
        let mut widths: Vec<usize> =
            self.columns.iter().map(|column| column.name.chars().count()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.width());
            }
        }
        if let Some(available) = screen.width {
            self.shorten(&mut widths, available);
        }
        let head: Vec<Cell> = self.columns.iter().map(|column| Cell::new(column.name)).collect();
        let mut text = String::new();
        for row in std::iter::once(&head).chain(&self.rows) {
            line(&mut text, row, &widths, screen.colors);
        }
        text
    }

    /// Takes from the widest of those that may be shortened, until it fits or none has more to give.
    fn shorten(&self, widths: &mut [usize], available: usize) {
        let gaps = GAP * widths.len().saturating_sub(1);
        loop {
            let used: usize = widths.iter().sum::<usize>() + gaps;
            let of_elastic = self.columns.iter().zip(widths.iter_mut());
            let widest = of_elastic
                .filter(|(column, width)| {
                    column.elastic && **width > NARROWEST.max(column.name.chars().count())
                })
                .map(|(_, width)| width)
                .max();
            match widest {
                Some(width) if used > available => *width -= 1,
                _ => return,
            }
        }
    }
}

fn line(text: &mut String, row: &[Cell], widths: &[usize], colors: bool) {
    let last = row.len().saturating_sub(1);
    for (number, (cell, width)) in row.iter().zip(widths).enumerate() {
        let shown = shortened(&cell.text, *width);
        let blanks = match number == last {
            true => 0,
            false => width.saturating_sub(shown.chars().count()) + GAP,
        };
        // A String takes everything.
        _ = match cell.tone.code().filter(|_| colors) {
            Some(code) => write!(text, "\u{1b}[{code}m{shown}\u{1b}[0m{:blanks$}", ""),
            None => write!(text, "{shown}{:blanks$}", ""),
        };
    }
    text.push('\n');
}

fn shortened(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&[elastic("NAME"), rigid("CDS"), elastic("REPLICA")]);
        table.rows = vec![
            vec![
                Cell::new("reviews-v1-5b8d.default"),
                Cell::toned("SYNCED", Tone::Good),
                Cell::new("istio-pilot-7d9f-abcde"),
            ],
            vec![Cell::new("a\u{1b}[2J\nb"), Cell::toned("REJECTED", Tone::Bad), Cell::new("")],
        ];
        table
    }

    #[test]
    fn columns_stand_under_each_other_and_what_is_hostile_is_escaped() {
        let text = table().render(Screen { width: None, colors: false });
        assert_eq!(
            text,
            "NAME                      CDS        REPLICA\n\
             reviews-v1-5b8d.default   SYNCED     istio-pilot-7d9f-abcde\n\
             a\\u{1b}[2J\\nb             REJECTED   -\n"
        );
    }

    #[test]
    fn names_give_way_to_a_narrow_terminal_and_states_do_not() {
        let text = table().render(Screen { width: Some(40), colors: false });
        assert!(text.lines().all(|line| line.chars().count() <= 40), "{text}");
        assert!(text.contains("REJECTED") && text.contains("reviews-v1-5…"), "{text}");
        // Where nothing fits, it is as narrow as it can be.
        let text = table().render(Screen { width: Some(5), colors: false });
        assert_eq!(text.lines().map(|line| line.chars().count()).max(), Some(8 + 3 + 8 + 3 + 8));
    }

    #[test]
    fn colours_do_not_count_as_width() {
        let text = table().render(Screen { width: None, colors: true });
        let plain =
            text.replace("\u{1b}[32m", "").replace("\u{1b}[31m", "").replace("\u{1b}[0m", "");
        assert_eq!(plain, table().render(Screen { width: None, colors: false }));
        assert!(text.contains("\u{1b}[31mREJECTED\u{1b}[0m"), "{text:?}");
    }
}
