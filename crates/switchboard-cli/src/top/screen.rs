//! How the model looks on a screen of any size.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Paragraph, Row, Table, Wrap};
use switchboard::Instance;

use super::columns::Columns;
use super::model::Model;
use crate::commands::watch::{about, sign};
use crate::details::{self, age};
use crate::output::{Look, clean, why};
use crate::world::News;

const HEADING: Style = Style::new().add_modifier(Modifier::BOLD);
const FAINT: Style = Style::new().add_modifier(Modifier::DIM);

pub(crate) fn draw(frame: &mut Frame<'_>, model: &mut Model) {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(2), Constraint::Fill(1), Constraint::Length(1)])
            .areas(frame.area());
    frame.render_widget(Paragraph::new(heading(model)), head);
    if model.details {
        draw_details(frame, body, model);
    } else {
        let [instances, news] = Layout::vertical([Constraint::Fill(2), Constraint::Fill(1)]).areas(body);
        draw_instances(frame, instances, model);
        draw_news(frame, news, model);
    }
    frame.render_widget(footing(model), foot);
}

fn heading(model: &Model) -> Vec<Line<'static>> {
    let (instances, healthy) = model.world.count();
    let title = format!(
        "services {}  instances {instances}  healthy {healthy}  {}",
        model.world.services.len(),
        clean(&model.world.registry),
    );
    let state = match (model.world.trouble(), model.world.alone) {
        (Some((since, why)), _) => Line::styled(
            format!("not heard for {}, this is how it was: {}", age(since.elapsed()), clean(why)),
            Style::new().fg(Color::Red),
        ),
        (None, Some(alone)) => Line::styled(alone, Style::new().fg(Color::Yellow)),
        (None, None) if model.world.heard => Line::styled("live", Style::new().fg(Color::Green)),
        (None, None) => Line::styled("listening", FAINT),
    };
    vec![Line::styled(title, HEADING), state]
}

fn footing(model: &Model) -> Line<'static> {
    if model.filtering {
        return Line::raw(format!("/{}_", clean(&model.filter)));
    }
    let keys = if model.details { "Esc back, q quits" } else { "q quits, / filters, Enter tells all" };
    match model.filter.as_str() {
        "" => Line::styled(keys, FAINT),
        filter => Line::styled(format!("only with {:?}, Esc lists all; {keys}", clean(filter)), FAINT),
    }
}

fn draw_instances(frame: &mut Frame<'_>, area: Rect, model: &mut Model) {
    let rows = model.rows();
    let cursor = model.cursor(&rows);
    let room = usize::from(area.height.saturating_sub(1));
    // The cursor is on the screen, and no line is empty that could be full.
    model.offset = model.offset.min(cursor).max((cursor + 1).saturating_sub(room));
    model.offset = model.offset.min(rows.len().saturating_sub(room));
    let shown = &rows[model.offset..rows.len().min(model.offset + room)];
    let columns = Columns::fit(area.width, shown);
    let lines = shown.iter().enumerate().map(|(line, instance)| {
        let style = style(Look::of(instance.health()));
        let style =
            if model.offset + line == cursor { style.add_modifier(Modifier::REVERSED) } else { style };
        Row::new(columns.cells(Some(instance))).style(style)
    });
    let table = Table::new(lines, columns.constraints()).header(Row::new(columns.cells(None)).style(HEADING));
    frame.render_widget(table, area);
}

/// Why it is not passing, and for how long that was seen.
pub(crate) fn reason(instance: &Instance) -> String {
    let since = instance.health_reasons().first().and_then(|reason| reason.seen_since);
    let age = since.map(|since| format!("{}+ ", age(since.elapsed()))).unwrap_or_default();
    format!("{age}{}", why(instance))
}

fn draw_details(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let name = model.opened_key().map(ToString::to_string).unwrap_or_default();
    let mut lines = vec![Line::styled(clean(&name), HEADING)];
    match model.opened() {
        Some(instance) => {
            let all = details::lines(instance);
            lines.extend(all.into_iter().map(|(look, line)| Line::styled(line, style(look))));
        }
        None => lines.push(Line::styled("gone", style(Look::Bad))),
    }
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }), area);
}

fn draw_news(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let room = usize::from(area.height.saturating_sub(1));
    let mut lines = vec![Line::styled("CHANGES", HEADING)];
    lines.extend(model.world.news.iter().take(room).map(|(at, news)| {
        let (text, look) = match &**news {
            News::Change(change) => {
                let (sign, look) = sign(change);
                (format!("{sign} {}{}", change.instance().key(), about(change)), look)
            }
            News::Outage(why) => (format!("! not heard: {why}"), Look::Bad),
            News::Recovery(lasted) => (format!("* heard again, after {}", age(*lasted)), Look::Good),
        };
        Line::styled(clean(&format!("{:>4} ago  {text}", age(at.elapsed()))), style(look))
    }));
    frame.render_widget(Paragraph::new(lines), area);
}

fn style(look: Look) -> Style {
    match look {
        Look::Good => Style::new().fg(Color::Green),
        Look::Doubtful => Style::new().fg(Color::Yellow),
        Look::Bad => Style::new().fg(Color::Red),
        Look::Heading => HEADING,
        Look::Faint => FAINT,
        Look::Plain => Style::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Event;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use std::sync::Arc;
    use std::time::Duration;
    use switchboard::{Change, Health, HealthReason};

    fn shown(model: &mut Model, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, model)).unwrap();
        terminal.backend().to_string()
    }

    fn add(model: &mut Model, builder: switchboard::InstanceBuilder) {
        model.world.take(Event::Changed(Change::Added(Arc::new(builder.build().unwrap()))));
    }

    #[tokio::test(start_paused = true)]
    async fn it_says_why_and_since_when() {
        let reason = HealthReason::new("http", Health::Critical)
            .output("refused\nby the firewall")
            .seen_since(Some(tokio::time::Instant::now()));
        let builder = Instance::builder("a").id("1").address("h:1").health(Health::Critical);
        let mut model = Model::new("memory:".into());
        add(&mut model, builder.health_reason(reason).metadata("zone", "a"));
        tokio::time::advance(Duration::from_secs(180)).await;
        let list = shown(&mut model, 120, 24);
        assert!(list.contains("3m+ http: refused"), "{list}");
        model.open();
        let all = shown(&mut model, 40, 10);
        for part in ["a/1", "http is critical for 3m+: refused", "by the firewall", "zone=a", "Esc back"] {
            assert!(all.contains(part), "{part}: {all}");
        }
    }

    #[test]
    fn what_is_not_heard_is_not_green() {
        let mut model = Model::new("mdns:".into());
        model.world.take(Event::Heard(None));
        assert!(shown(&mut model, 80, 24).contains("\"live"));
        model.world.alone = Some("loopback is the only interface");
        let alone = shown(&mut model, 80, 24);
        assert!(alone.contains("loopback is the only") && !alone.contains("\"live"), "{alone}");
    }

    #[test]
    fn any_size_can_be_drawn() {
        let mut model = Model::new("memory:".into());
        for id in 0..50 {
            add(&mut model, Instance::builder("greeter").id(format!("g{id:02}")).address("h:1"));
        }
        for (width, height) in [(1, 1), (5, 2), (10, 4), (80, 24), (200, 60)] {
            model.move_by(isize::MAX);
            shown(&mut model, width, height);
            model.open();
            shown(&mut model, width, height);
            model.details = false;
        }
        assert!(shown(&mut model, 80, 24).contains("g49"));
        model.move_by(isize::MIN);
        let all = shown(&mut model, 80, 24);
        assert!(all.contains("services 1  instances 50  healthy 50"), "{all}");
        assert!(all.contains("g00"), "{all}");
    }
}
