//! [`Drawing`]: the flame as boxes in percent of the width, drawn on the server: no script, and labels keep their size.

use weir_analyzer::flame::FramePath;

use super::super::format;
use crate::critical_path::CriticalPaths;

/// Height of a level, in pixels.
const LEVEL: usize = 26;

/// Narrower boxes are left out, in percent of the width: two pixels of a wide page. The table has them.
const LEAST_WIDTH: f64 = 0.12;

/// Narrower boxes have no label.
const LEAST_LABEL: f64 = 2.5;

/// Colours of services.
const COLOURS: usize = 8;

/// Everything the template prints.
pub(super) struct Drawing {
    pub(super) height: usize,
    pub(super) boxes: Vec<Frame>,
}

/// One box.
pub(super) struct Frame {
    pub(super) href: String,
    /// Classes beside the colour.
    pub(super) class: &'static str,
    pub(super) colour: usize,
    pub(super) x: String,
    pub(super) y: usize,
    pub(super) width: String,
    /// Own time, in percent of the box.
    pub(super) own: String,
    pub(super) label: Option<(String, String, String)>,
    pub(super) title: String,
}

/// A colour for every service, by name.
pub(super) struct Colours(Vec<String>);

impl Colours {
    pub(super) fn of(paths: &[FramePath]) -> Self {
        let mut services: Vec<String> = paths.iter().map(|path| path.service.clone()).collect();
        services.sort_unstable();
        services.dedup();
        Self(services)
    }

    pub(super) fn of_service(&self, service: &str) -> usize {
        self.0.binary_search_by(|known| known.as_str().cmp(service)).unwrap_or(0) % COLOURS
    }

    pub(super) fn legend(&self) -> Vec<(String, usize)> {
        self.0.iter().map(|service| (service.clone(), self.of_service(service))).collect()
    }
}

impl Drawing {
    /// All frames, or those below the selected one with the ways to it above them.
    pub(super) fn of(
        found: &CriticalPaths,
        selected: Option<usize>,
        colours: &Colours,
        href: impl Fn(&FramePath) -> String,
    ) -> Self {
        let paths = &found.paths;
        let places = places(paths, selected, found.total_ns - found.other_ns);
        let visible =
            places.iter().enumerate().filter_map(|(place, at)| Some((place, at.filter(|at| at.width >= LEAST_WIDTH)?)));
        let draw = |(place, at): (usize, Place)| {
            let path = &paths[place];
            let labelled = at.width >= LEAST_LABEL;
            let above = selected.is_some_and(|selected| is_above(paths, place, selected));
            let label = || (path.service.clone(), path.operation.clone(), format::percent(path.share));
            Frame {
                href: href(path),
                class: class(path, selected == Some(place), above),
                colour: colours.of_service(&path.service),
                x: format!("{:.3}", at.x),
                y: path.depth * LEVEL,
                width: format!("{:.3}", at.width),
                own: format!("{:.2}", path.self_ns as f64 * 100.0 / path.total_ns.max(1) as f64),
                label: labelled.then(label),
                title: title(path, found),
            }
        };
        let boxes: Vec<Frame> = visible.map(draw).collect();
        let levels = boxes.iter().map(|frame| frame.y / LEVEL + 1).max().unwrap_or(0);
        Self { height: levels * LEVEL, boxes }
    }
}

/// Where a box stands, in percent of the width.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Place {
    x: f64,
    width: f64,
}

/// Of each frame, if it is to be seen: children side by side below their parent, the largest first.
fn places(paths: &[FramePath], selected: Option<usize>, total_ns: i64) -> Vec<Option<Place>> {
    let mut places: Vec<Option<Place>> = Vec::with_capacity(paths.len());
    let mut next_x = vec![0.0; paths.len()];
    let mut next_root_x = 0.0;
    for (place, path) in paths.iter().enumerate() {
        let whole = selected.is_some_and(|selected| place == selected || is_above(paths, place, selected));
        let outside = selected.is_some_and(|selected| !whole && !is_above(paths, selected, place));
        let (room, of_ns) = match path.parent {
            Some(parent) => (places[parent], paths[parent].total_ns),
            None => (Some(Place { x: 0.0, width: 100.0 }), total_ns),
        };
        let at = room.filter(|_| !outside).map(|room| {
            let x = path.parent.map_or(next_root_x, |parent| next_x[parent]);
            let share = if of_ns > 0 { path.total_ns as f64 / of_ns as f64 } else { 0.0 };
            if whole { Place { x: 0.0, width: 100.0 } } else { Place { x, width: room.width * share } }
        });
        if let Some(at) = at {
            next_x[place] = at.x;
            match path.parent {
                Some(parent) => next_x[parent] += at.width,
                None => next_root_x += at.width,
            }
        }
        places.push(at);
    }
    places
}

/// Whether one frame stands on the way to another.
fn is_above(paths: &[FramePath], above: usize, below: usize) -> bool {
    std::iter::successors(paths[below].parent, |parent| paths[*parent].parent).any(|parent| parent == above)
}

fn class(path: &FramePath, selected: bool, above: bool) -> &'static str {
    let undecided = path.undecided_ns > path.total_ns / 2;
    match (selected, above, undecided) {
        (true, _, false) => " selected",
        (true, _, true) => " selected undecided",
        (_, true, _) => " above",
        (_, _, true) => " undecided",
        _ => "",
    }
}

fn title(path: &FramePath, found: &CriticalPaths) -> String {
    let requests = i64::try_from(path.requests).unwrap_or(i64::MAX).max(1);
    let mut title = format!(
        "{} {}: {} of all time, own {}, drag {}, in {} of {} requests",
        path.service,
        path.operation,
        format::percent(path.share),
        format::ns(path.self_ns / requests),
        format::ns(path.mean_drag_ns),
        path.requests,
        found.requests
    );
    if path.undecided_ns > 0 {
        let share = path.undecided_ns as f64 / path.total_ns.max(1) as f64;
        title += &format!("; {} of it perhaps not waited for", format::percent(share));
    }
    title
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(parent: Option<usize>, depth: usize, total_ns: i64) -> FramePath {
        FramePath {
            id: String::new(),
            parent,
            depth,
            service: "a".into(),
            operation: String::new(),
            requests: 1,
            total_ns,
            self_ns: 0,
            other_ns: 0,
            undecided_ns: 0,
            share: 0.0,
            mean_drag_ns: 0,
        }
    }

    #[test]
    fn children_stand_side_by_side_below_their_parent_and_a_selected_frame_is_as_wide_as_the_page() {
        let paths = [
            path(None, 0, 300),
            path(Some(0), 1, 200),
            path(Some(1), 2, 50),
            path(Some(0), 1, 60),
            path(None, 0, 100),
            path(Some(4), 1, 25),
        ];
        let at = |selected: Option<usize>| -> Vec<Option<(i64, i64)>> {
            places(&paths, selected, 400)
                .iter()
                .map(|at| at.map(|at| (at.x.round() as i64, at.width.round() as i64)))
                .collect()
        };
        assert_eq!(
            at(None),
            [Some((0, 75)), Some((0, 50)), Some((0, 13)), Some((50, 15)), Some((75, 25)), Some((75, 6))]
        );
        assert_eq!(at(Some(1)), [Some((0, 100)), Some((0, 100)), Some((0, 25)), None, None, None]);
        assert_eq!(at(Some(4)), [None, None, None, None, Some((0, 100)), Some((0, 25))]);
        assert_eq!(class(&path(None, 0, 1), true, false), " selected");
    }
}
