//! Lines for a terminal, or for wherever else they go.

use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;

/// Where the width is not known: what every terminal has.
const USUAL: usize = 80;
/// Narrower than this nothing can be laid out.
const LEAST: usize = 40;

/// What lines may look like where they go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// Columns of a line.
    pub width: usize,
    /// Lines on the screen.
    pub height: usize,
    /// Whether ink is seen.
    pub colour: bool,
    /// Whether more than ASCII is.
    pub unicode: bool,
}

impl Style {
    /// For this stream.
    pub fn of(stream: &(impl AsFd + IsTerminal)) -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(variable);
        // A locale that was never set says nothing; one without UTF-8 was meant.
        let unicode = locale.is_none_or(|locale| {
            let locale = locale.to_ascii_lowercase();
            locale.contains("utf-8") || locale.contains("utf8")
        });
        let plain = Self { width: USUAL, height: 24, colour: false, unicode };
        if !is_screen(stream) {
            return plain;
        }
        let colour = variable("NO_COLOR").is_none();
        match rustix::termios::tcgetwinsize(stream) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
                // The last column stays free: some terminals go to the next line after it.
                let width = usize::from(size.ws_col).saturating_sub(1).max(LEAST);
                Self { width, height: size.ws_row.into(), colour, unicode }
            }
            _ => Self { colour, ..plain },
        }
    }
}

/// Whether this stream is a terminal on which the cursor can be moved.
pub fn is_screen(stream: &impl IsTerminal) -> bool {
    let dumb = std::env::var("TERM").is_ok_and(|term| term == "dumb" || term.is_empty());
    stream.is_terminal() && !dumb
}

/// With what a piece of text is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ink {
    Plain,
    Bold,
    Faint,
    Blue,
    Green,
    Yellow,
    Red,
}

impl Ink {
    /// ECMA-48, Select Graphic Rendition.
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "0",
            Self::Bold => "1",
            Self::Faint => "2",
            Self::Blue => "36",
            Self::Green => "32",
            Self::Yellow => "33",
            Self::Red => "31",
        }
    }
}

/// A line, piece by piece.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Line(Vec<(Ink, String)>);

impl Line {
    /// A line of this text.
    pub fn of(text: impl Into<String>) -> Self {
        Self::default().plain(text)
    }

    /// With this text behind it.
    pub fn plain(self, text: impl Into<String>) -> Self {
        self.ink(Ink::Plain, text)
    }

    /// With this text behind it.
    pub fn ink(mut self, ink: Ink, text: impl Into<String>) -> Self {
        self.0.push((ink, text.into()));
        self
    }

    /// As it is printed where it may be of any length.
    pub fn whole(&self, style: &Style) -> String {
        self.cut(style, usize::MAX)
    }

    /// As it is printed where it must not be longer than a line of the screen.
    pub fn fitted(&self, style: &Style) -> String {
        self.cut(style, style.width)
    }

    fn cut(&self, style: &Style, mut left: usize) -> String {
        let mut text = String::new();
        for (ink, piece) in &self.0 {
            let piece = if style.unicode { piece.clone() } else { ascii(piece) };
            let piece: String = piece.chars().take(left).collect();
            left -= piece.chars().count();
            match (style.colour, ink) {
                (_, Ink::Plain) | (false, _) => text.push_str(&piece),
                (true, _) if piece.is_empty() => {}
                (true, ink) => text.push_str(&format!("\x1b[{}m{piece}\x1b[0m", ink.code())),
            }
        }
        text
    }
}

/// The nearest to it that there is in ASCII.
fn ascii(text: &str) -> String {
    let mut ascii = String::new();
    for c in text.chars() {
        match c {
            'µ' => ascii.push('u'),
            '±' => ascii.push_str("+-"),
            '…' => ascii.push_str("..."),
            _ if c.is_ascii() => ascii.push(c),
            _ => ascii.push('?'),
        }
    }
    ascii
}

/// Breaks a text into lines that are no wider than `width`, between words; what is longer by itself
/// stays whole, so that it can be copied.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Lines that are drawn again and again in the same place, at the bottom of the screen.
#[derive(Debug, Default)]
pub struct Screen {
    /// How long each line is that is on the screen.
    drawn: Vec<usize>,
    last: String,
    /// The most lines that there were. Fewer are filled up, lest the screen jump.
    most: usize,
}

impl Screen {
    /// Draws these instead of those that are there. One write, and nothing is erased that stays:
    /// it does not flicker.
    pub fn draw(&mut self, out: &mut impl Write, lines: &[Line], style: &Style) {
        let most = style.height.saturating_sub(1);
        self.most = self.most.max(lines.len()).min(most);
        let fillers = std::iter::repeat(Line::default());
        let lines: Vec<Line> = lines.iter().cloned().chain(fillers).take(self.most).collect();
        let fitted: Vec<String> = lines.iter().map(|line| line.fitted(style)).collect();
        // No line may go on in the next one, not even where the width was wrong.
        let mut text = format!("{}\x1b[?7l", self.back(style));
        for line in &fitted {
            text.push_str(line);
            text.push_str("\x1b[K\n");
        }
        text.push_str("\x1b[J\x1b[?7h");
        if text == self.last {
            return;
        }
        // A terminal that has gone away needs no picture.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        let plain = Style { colour: false, ..*style };
        self.drawn = lines.iter().map(|line| line.fitted(&plain).chars().count()).collect();
        self.last = text;
    }

    /// Takes away what was drawn.
    pub fn clear(&mut self, out: &mut impl Write, style: &Style) {
        let text = format!("{}\x1b[J", self.back(style));
        if !self.drawn.is_empty() {
            let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        }
        *self = Self::default();
    }

    /// Moves to where the drawing begins. A window that became narrower has broken its lines.
    fn back(&self, style: &Style) -> String {
        let rows: usize = self.drawn.iter().map(|len| len.div_ceil(style.width + 1).max(1)).sum();
        if rows == 0 { "\r".to_owned() } else { format!("\r\x1b[{rows}A") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STYLE: Style = Style { width: 40, height: 24, colour: true, unicode: true };

    #[test]
    fn a_line_is_cut_at_the_width_and_ink_does_not_count() {
        let line = Line::of("x".repeat(30)).ink(Ink::Red, "y".repeat(30));
        let text = line.fitted(&STYLE);
        assert_eq!(text, format!("{}\x1b[31m{}\x1b[0m", "x".repeat(30), "y".repeat(10)));
        let plain = Style { colour: false, ..STYLE };
        assert_eq!(line.fitted(&plain).chars().count(), 40);
        assert_eq!(line.whole(&plain).chars().count(), 60);
    }

    #[test]
    fn where_there_is_only_ascii_units_are_still_told() {
        let line = Line::of("3 µs ± 1 …");
        assert_eq!(line.whole(&Style { unicode: false, ..STYLE }), "3 us +- 1 ...");
        assert_eq!(line.whole(&STYLE), "3 µs ± 1 …");
    }

    #[test]
    fn a_text_is_broken_between_words_only() {
        assert_eq!(wrap("a bc def", 4), ["a bc", "def"]);
        assert_eq!(wrap("a muchtoolong b", 4), ["a", "muchtoolong", "b"]);
    }

    #[test]
    fn a_drawing_replaces_the_one_before_and_is_not_repeated() {
        let (mut screen, mut out) = (Screen::default(), Vec::new());
        screen.draw(&mut out, &[Line::of("one"), Line::of("two")], &STYLE);
        assert_eq!(out, b"\r\x1b[?7lone\x1b[K\ntwo\x1b[K\n\x1b[J\x1b[?7h");
        out.clear();
        screen.draw(&mut out, &[Line::of("three")], &STYLE);
        assert_eq!(out, b"\r\x1b[2A\x1b[?7lthree\x1b[K\n\x1b[K\n\x1b[J\x1b[?7h");
        out.clear();
        screen.draw(&mut out, &[Line::of("three")], &STYLE);
        assert!(out.is_empty());
        out.clear();
        screen.clear(&mut out, &STYLE);
        assert_eq!(out, b"\r\x1b[2A\x1b[J");
        out.clear();
        screen.clear(&mut out, &STYLE);
        assert!(out.is_empty());
    }

    #[test]
    fn a_window_that_became_narrower_is_wiped_all_the_same() {
        let (mut screen, mut out) = (Screen::default(), Vec::new());
        let wide = Style { width: 99, ..STYLE };
        screen.draw(&mut out, &[Line::of("x".repeat(99))], &wide);
        out.clear();
        screen.clear(&mut out, &Style { width: 49, ..STYLE });
        assert_eq!(out, b"\r\x1b[2A\x1b[J");
    }

    #[test]
    fn a_low_screen_shows_what_fits() {
        let (mut screen, mut out) = (Screen::default(), Vec::new());
        let low = Style { height: 3, ..STYLE };
        let lines: Vec<Line> = (0..9).map(|n| Line::of(n.to_string())).collect();
        screen.draw(&mut out, &lines, &low);
        assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 2);
    }
}
