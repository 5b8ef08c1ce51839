//! How wide each column of the list is: where there is little room, an address is cut last and its port never before it.

use std::sync::Arc;

use ratatui::layout::Constraint;
use switchboard::{Health, Instance};

use super::screen::reason;
use crate::output::{clean, cut};

/// Narrower screens have a sign for the health instead of the word.
const WORDS: usize = 60;

/// An id that was made up is longer, and tells little.
const LONGEST_ID: usize = 24;

/// The widths, in the order on the screen; a column of width 0 is not there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Columns {
    health: usize,
    service: usize,
    id: usize,
    address: usize,
    version: usize,
    why: usize,
}

impl Columns {
    /// The best for these instances in so many cells.
    pub(crate) fn fit(width: u16, rows: &[Arc<Instance>]) -> Self {
        let width = usize::from(width);
        let widest = |head: &str, of: &dyn Fn(&Instance) -> String| {
            let longest = rows.iter().map(|row| of(row).chars().count()).max().unwrap_or(0);
            longest.max(head.len())
        };
        let health = if width < WORDS { 1 } else { 8 };
        let mut left = width.saturating_sub(health);
        // With the gap before it; nothing where there is no room for it.
        let mut take = |wanted: usize, least: usize| {
            let given = wanted.min(left.saturating_sub(1));
            let given = if given < least { 0 } else { given };
            left -= if given == 0 { 0 } else { given + 1 };
            given
        };
        let address = take(widest("ADDRESS", &address), 1);
        let service = widest("SERVICE", &|row| row.service().to_string());
        let id = widest("ID", &|row| row.id().to_string());
        let why = widest("", &|row| reason(row));
        // No column at all where no instance has one.
        let version = widest("", &|row| row.version().unwrap_or_default().to_owned());
        let version = if version == 0 { 0 } else { version.max("VERSION".len()) };
        // Half of what the address leaves for the name, unless the id needs less.
        let rest = width.saturating_sub(health + address + 1);
        let for_service = service.min((rest / 2).max(rest.saturating_sub(id + 2)));
        let service = take(for_service, 1);
        let id = take(if width < WORDS { id } else { id.min(LONGEST_ID) }, 1);
        let why = if width < WORDS { 0 } else { take(why, 8.min(why)) };
        let version = if width < WORDS { 0 } else { take(version.min(10), version.min(3)) };
        Self { health, service, id, address, version, why }
    }

    /// The heads, or what an instance has in each column.
    pub(crate) fn cells(&self, instance: Option<&Instance>) -> Vec<String> {
        let Some(instance) = instance else {
            let health = if self.health == 1 { "" } else { "HEALTH" };
            let heads = [health, "SERVICE", "ID", "ADDRESS", "VERSION", "WHY"].map(str::to_owned);
            return self.present(heads).into_iter().map(|(head, width)| cut(head, width)).collect();
        };
        let health = match (self.health, instance.health()) {
            (1, Health::Passing) => String::new(),
            (1, Health::Warning) => "~".into(),
            (1, _) => "!".into(),
            (_, health) => health.to_string(),
        };
        let cells = [
            health,
            clean(instance.service().as_str()),
            clean(instance.id().as_str()),
            cut_front(address(instance), self.address),
            clean(instance.version().unwrap_or_default()),
            clean(&reason(instance)),
        ];
        self.present(cells).into_iter().map(|(cell, width)| cut(cell, width)).collect()
    }

    pub(crate) fn constraints(&self) -> Vec<Constraint> {
        let length = |((), width)| Constraint::Length(u16::try_from(width).unwrap_or(u16::MAX));
        self.present([(); 6]).into_iter().map(length).collect()
    }

    /// Those that have a width, with it.
    fn present<T>(&self, cells: [T; 6]) -> Vec<(T, usize)> {
        let widths = [self.health, self.service, self.id, self.address, self.version, self.why];
        cells.into_iter().zip(widths).filter(|(_, width)| *width > 0).collect()
    }
}

/// The first address, and how many more there are.
fn address(instance: &Instance) -> String {
    match instance.addresses() {
        [] => String::new(),
        [one] => clean(&one.to_string()),
        [first, others @ ..] => format!("+{} {}", others.len(), clean(&first.to_string())),
    }
}

/// The end of a text counts more than its beginning where it is an address.
fn cut_front(text: String, widest: usize) -> String {
    let long = text.chars().count();
    if long <= widest {
        return text;
    }
    std::iter::once('…').chain(text.chars().skip(long + 1 - widest.max(1))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str, address: &str) -> Arc<Instance> {
        let builder = Instance::builder("payments-gateway").id(id).address(address).version("1.2.3");
        Arc::new(builder.build().unwrap())
    }

    #[test]
    fn the_port_is_the_last_thing_to_be_cut() {
        let rows = [row(
            "payments-gateway-4786c7e2-beba-4ed8-aaad-47a9256f008f",
            "ip-10-1-2-3.eu-west-1.example:18080",
        )];
        for width in 8..200 {
            let columns = Columns::fit(width, &rows);
            let cells = columns.cells(Some(&rows[0]));
            assert!(cells.iter().any(|cell| cell.ends_with("18080")), "{width}: {cells:?}");
            let used: usize =
                columns.present([(); 6].map(|()| Some(String::new()))).iter().map(|(_, w)| w + 1).sum();
            assert!(used <= usize::from(width) + 1, "{width}: {columns:?}");
        }
        assert_eq!(
            Columns::fit(40, &[row("a1", "10.11.12.13:8080")]).cells(None)[1..],
            ["SERVICE", "ID", "ADDRESS"]
        );
    }

    #[test]
    fn several_addresses_are_counted() {
        let two = Instance::builder("a").id("1").address("h:1").address("[::1]:2").build().unwrap();
        assert_eq!(address(&two), "+1 h:1");
        assert_eq!(cut_front("10.0.0.1:80".into(), 5), "…1:80");
        assert_eq!(cut_front("10.0.0.1:80".into(), 0), "…");
    }
}
