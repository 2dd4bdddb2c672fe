//! A picture of memory: how much of each part is in the file.

use crate::output::bytes;
use crate::terminal::{Ink, Line, Style};
use memory::{PAGE_SIZE, PageRange, PageSet, Region};

/// Most lines of one region.
const MOST_ROWS: u64 = 12;
/// Columns for the address at the beginning of a line.
const ADDRESS: usize = 14;

/// What stands for a part of which nothing, little, much, most and all is there.
const SHADES: [char; 5] = ['·', '░', '▒', '▓', '█'];
const ASCII_SHADES: [char; 5] = ['.', '-', '+', '*', '#'];

/// Draws each region.
pub fn draw(regions: &[Region], present: &PageSet, style: &Style) -> Vec<Line> {
    let columns = style.width.saturating_sub(ADDRESS).max(16) as u64;
    let most = regions.iter().map(|region| region.length / PAGE_SIZE).max().unwrap_or(0);
    // A power of two, so that a character is a number of bytes that people know.
    let cell = most.div_ceil(columns * MOST_ROWS).max(1).next_power_of_two();
    let shades = if style.unicode { SHADES } else { ASCII_SHADES };
    let mut lines = Vec::new();
    for region in regions {
        let pages = region.pages();
        for start in (pages.start..pages.end()).step_by(step(cell * columns)) {
            let end = pages.end().min(start + cell * columns);
            let address = start * PAGE_SIZE - region.offset + region.address;
            let line = Line::default().ink(Ink::Faint, format!("{address:#012x}  "));
            let cells = (start..end).step_by(step(cell)).map(|at| {
                let part = PageRange::new(at, cell.min(end - at));
                shade(present.count_in(part), part.count, &shades)
            });
            lines.push(line.ink(Ink::Blue, cells.collect::<String>()));
        }
    }
    let [none, little, much, most, all] = shades;
    lines.push(Line::default().ink(
        Ink::Faint,
        format!(
            "{:ADDRESS$}one character is {}: {none} none {little} some {much} half {most} most {all} all of it",
            "",
            bytes(cell * PAGE_SIZE)
        ),
    ));
    lines
}

fn step(pages: u64) -> usize {
    usize::try_from(pages).unwrap_or(usize::MAX)
}

fn shade(present: u64, pages: u64, shades: &[char; 5]) -> char {
    match present {
        0 => shades[0],
        _ if present == pages => shades[4],
        _ => match present * 3 / pages {
            0 => shades[1],
            1 => shades[2],
            _ => shades[3],
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use memory::Layout;

    fn drawn(ram: u64, style: &Style) -> Vec<String> {
        let layout = Layout::new(ram, PAGE_SIZE).unwrap();
        let mut present = PageSet::new(layout.pages());
        present.insert(PageRange::new(0, 1));
        present.insert(PageRange::new(layout.pages() / 2, layout.pages() / 2));
        let lines = draw(layout.regions(), &present, style);
        lines.iter().map(|line| line.whole(style)).collect()
    }

    #[test]
    fn every_part_of_memory_has_its_character() {
        let style = Style { width: 79, height: 24, colour: false, unicode: true };
        let lines = drawn(16 << 20, &style);
        assert_eq!(lines.len(), 9);
        assert!(lines[0].starts_with("0x0000000000  ░····"), "{}", lines[0]);
        assert!(lines[7].ends_with("██"), "{}", lines[7]);
        assert!(lines[8].contains("one character is 32.0 KiB"), "{}", lines[8]);
        let cells: usize = lines[..8].iter().map(|line| line.chars().count() - ADDRESS).sum();
        assert_eq!(cells, 512);
    }

    #[test]
    fn it_fits_the_screen_whatever_the_size() {
        for width in [40, 80, 200] {
            for unicode in [true, false] {
                let style = Style { width, height: 24, colour: false, unicode };
                for ram in [16 << 20, 3 << 30, 5 << 30, 1 << 40] {
                    let lines = drawn(ram, &style);
                    let (legend, rows) = lines.split_last().unwrap();
                    assert!(rows.iter().all(|line| line.chars().count() <= width), "{rows:#?}");
                    assert!(rows.len() <= 2 * 12 + 1, "{} rows for {ram}", rows.len());
                    assert!(unicode || lines.iter().all(|line| line.is_ascii()));
                    assert!(!legend.contains('?'));
                }
            }
        }
    }

    #[test]
    fn only_all_is_drawn_as_all_and_only_nothing_as_nothing() {
        for pages in 1..40 {
            for present in 0..=pages {
                let shade = shade(present, pages, &SHADES);
                assert_eq!(shade == '·', present == 0);
                assert_eq!(shade == '█', present == pages);
            }
        }
    }
}
