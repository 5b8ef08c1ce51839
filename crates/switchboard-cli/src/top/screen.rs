//! How the model looks on a screen of any size.

use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Paragraph, Row, Table};
use switchboard::{Change, Health, Instance};

use super::model::Model;
use crate::commands::watch::about;
use crate::output::{clean, list, why};

const HEADING: Style = Style::new().add_modifier(Modifier::BOLD);
const FAINT: Style = Style::new().add_modifier(Modifier::DIM);

pub(crate) fn draw(frame: &mut Frame<'_>, model: &mut Model) {
    let [head, body, changes, foot] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Fill(2),
        Constraint::Fill(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(heading(model)), head);
    draw_instances(frame, body, model);
    draw_changes(frame, changes, model);
    frame.render_widget(Line::styled("q quits, arrows scroll", FAINT), foot);
}

fn heading(model: &Model) -> Vec<Line<'static>> {
    let (instances, healthy) = model.count();
    let title = format!(
        "switchboard top  {}  services {}  instances {instances}  healthy {healthy}",
        clean(&model.registry),
        model.services.len()
    );
    let state = match model.trouble() {
        Some((since, why)) => Line::styled(
            format!("not heard for {}, this is how it was: {}", age(since.elapsed()), clean(why)),
            Style::new().fg(Color::Red),
        ),
        None if model.heard => Line::styled("live", Style::new().fg(Color::Green)),
        None => Line::styled("listening", FAINT),
    };
    vec![Line::styled(title, HEADING), state]
}

/// From this width on there is room for why an instance is not passing.
const WIDE: u16 = 80;

fn draw_instances(frame: &mut Frame<'_>, area: Rect, model: &mut Model) {
    let (instances, _) = model.count();
    let room = usize::from(area.height.saturating_sub(1));
    model.offset = model.offset.min(instances.saturating_sub(room));
    let rows = model.services.values().flat_map(|instances| {
        // The name stands at its first instance only.
        instances.values().enumerate().map(|(index, instance)| row(instance, index == 0))
    });
    let mut widths = vec![
        Constraint::Fill(2),
        Constraint::Fill(3),
        Constraint::Length(11),
        Constraint::Fill(2),
        Constraint::Length(10),
    ];
    if area.width >= WIDE {
        widths.push(Constraint::Fill(4));
    }
    let headings = ["SERVICE", "ID", "HEALTH", "ADDRESS", "VERSION", "WHY"].into_iter().take(widths.len());
    let table =
        Table::new(rows.skip(model.offset).take(room), widths).header(Row::new(headings).style(HEADING));
    frame.render_widget(table, area);
}

fn row(instance: &Instance, first: bool) -> Row<'static> {
    let name = if first { clean(instance.service().as_str()) } else { String::new() };
    let style = match instance.health() {
        Health::Passing => Style::new(),
        Health::Warning => Style::new().fg(Color::Yellow),
        _ => Style::new().fg(Color::Red),
    };
    Row::new([
        name,
        clean(instance.id().as_str()),
        instance.health().to_string(),
        list(instance.addresses()),
        clean(instance.version().unwrap_or_default()),
        clean(&reason(instance)),
    ])
    .style(style)
}

/// Why it is not passing, and for how long that was seen.
fn reason(instance: &Instance) -> String {
    let since = instance.health_reasons().first().and_then(|reason| reason.seen_since);
    let age = since.map(|since| format!("{}+ ", age(since.elapsed()))).unwrap_or_default();
    format!("{age}{}", why(instance))
}

fn draw_changes(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let room = usize::from(area.height.saturating_sub(1));
    let mut lines = vec![Line::styled("CHANGES", HEADING)];
    lines.extend(model.changes.iter().take(room).map(|(at, change)| {
        let (sign, color) = match change {
            Change::Added(_) => ('+', Color::Green),
            Change::Updated { .. } => ('~', Color::Yellow),
            Change::Removed(_) => ('-', Color::Red),
        };
        let text =
            format!("{:>4} ago  {sign} {}{}", age(at.elapsed()), change.instance().key(), about(change));
        Line::styled(clean(&text), Style::new().fg(color))
    }));
    frame.render_widget(Paragraph::new(lines), area);
}

fn age(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds @ 60..3600 => format!("{}m", seconds / 60),
        seconds => format!("{}h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Event;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use std::sync::Arc;

    #[tokio::test(start_paused = true)]
    async fn it_says_why_and_since_when() {
        let reason = switchboard::HealthReason::new("http", Health::Critical)
            .output("refused")
            .seen_since(Some(tokio::time::Instant::now()));
        let builder = Instance::builder("a").id("1").address("h:1").health(Health::Critical);
        let mut model = Model::new("memory:".into());
        let instance = Arc::new(builder.health_reason(reason).build().unwrap());
        model.take(Event::Changed(Change::Added(instance)));
        tokio::time::advance(Duration::from_secs(180)).await;
        let mut terminal = Terminal::new(TestBackend::new(120, 24)).unwrap();
        terminal.draw(|frame| draw(frame, &mut model)).unwrap();
        let shown = terminal.backend().to_string();
        assert!(shown.contains("3m+ http: refused"), "{shown}");
    }

    #[test]
    fn any_size_can_be_drawn() {
        let mut model = Model::new("memory:".into());
        for id in 0..50 {
            let instance =
                Instance::builder("greeter").id(format!("g{id:02}")).address("h:1").build().unwrap();
            model.take(Event::Changed(Change::Added(Arc::new(instance))));
        }
        for (width, height) in [(1, 1), (5, 2), (10, 4), (80, 24), (200, 60)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            model.scroll(isize::MAX);
            terminal.draw(|frame| draw(frame, &mut model)).unwrap();
        }
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        model.scroll(isize::MIN);
        terminal.draw(|frame| draw(frame, &mut model)).unwrap();
        let shown = terminal.backend().to_string();
        assert!(shown.contains("services 1  instances 50  healthy 50"), "{shown}");
        assert!(shown.contains("g00"), "{shown}");
    }
}
