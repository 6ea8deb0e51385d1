//! Where nodes stand: layers from left to right, made once per topology and kept, so that nothing
//! jumps while numbers change.

use std::sync::Arc;

use parking_lot::Mutex;
use rust_sugiyama::configure::{Config, CrossingMinimization, RankingType};

/// Size of a node's box.
pub(crate) const NODE_WIDTH: i32 = 190;
pub(crate) const NODE_HEIGHT: i32 = 78;

/// Room for an edge's label between two layers.
const LAYER_GAP: f64 = 100.0;

/// Room between two nodes of a layer.
const NODE_GAP: f64 = 34.0;

/// Around everything: badges reach beyond their boxes.
const MARGIN: i32 = 24;

/// Which nodes there are, and who calls whom, by their places in `nodes`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Topology {
    pub(crate) nodes: Vec<String>,
    pub(crate) edges: Vec<(usize, usize)>,
}

/// Upper left corners, in the order of the topology's nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) corners: Vec<(i32, i32)>,
    pub(crate) width: i32,
    pub(crate) height: i32,
}

/// The layout of the newest topology.
#[derive(Debug, Default)]
pub(crate) struct LayoutCache {
    newest: Mutex<Option<(Topology, Arc<Layout>)>>,
}

impl LayoutCache {
    /// The layout of `topology`, from before if it has not changed.
    pub(crate) fn layout(&self, topology: Topology) -> Arc<Layout> {
        let mut newest = self.newest.lock();
        if let Some((of, layout)) = &*newest
            && *of == topology
        {
            return layout.clone();
        }
        let layout = Arc::new(Layout::of(&topology));
        *newest = Some((topology, layout.clone()));
        layout
    }
}

impl Layout {
    /// Lays out components one below the other.
    pub(crate) fn of(topology: &Topology) -> Self {
        let size = (f64::from(NODE_HEIGHT) + NODE_GAP, f64::from(NODE_WIDTH) + LAYER_GAP);
        let vertices: Vec<(u32, (f64, f64))> = (0..topology.nodes.len() as u32).map(|node| (node, size)).collect();
        let edges: Vec<(u32, u32)> = topology
            .edges
            .iter()
            .filter(|(from, to)| from != to)
            .map(|(from, to)| (*from as u32, *to as u32))
            .collect();
        let config = Config {
            minimum_length: 1,
            vertex_spacing: 1.0,
            dummy_vertices: true,
            dummy_size: 1.0,
            ranking_type: RankingType::MinimizeEdgeLength,
            c_minimization: CrossingMinimization::Barycenter,
            transpose: topology.nodes.len() <= 300,
        };
        let mut corners = vec![(0, 0); topology.nodes.len()];
        let (mut width, mut below) = (0, MARGIN);
        let mut components = rust_sugiyama::from_vertices_and_edges(&vertices, &edges, &config);
        // the largest first, then by the first name in it: the same every time
        components.sort_by_key(|(nodes, ..)| (std::cmp::Reverse(nodes.len()), nodes.iter().map(|n| n.0).min()));
        for (nodes, ..) in components {
            let placed = place(&nodes, &edges);
            let (right, bottom) = extent(&placed);
            for (node, x, y) in placed {
                corners[node] = (x + MARGIN, y + below);
            }
            width = width.max(right);
            below += bottom + NODE_GAP as i32;
        }
        Self { corners, width: width + 2 * MARGIN, height: below + MARGIN }
    }
}

/// Layers become columns, callers to the left.
fn place(nodes: &[(usize, (f64, f64))], edges: &[(u32, u32)]) -> Vec<(usize, i32, i32)> {
    let layer_of = |node: u32| nodes.iter().find(|(n, _)| *n == node as usize).map(|(_, (_, layer))| *layer);
    let forward: f64 = edges.iter().filter_map(|(from, to)| Some((layer_of(*to)? - layer_of(*from)?).signum())).sum();
    let sign = if forward < 0.0 { -1.0 } else { 1.0 };
    let left = nodes.iter().map(|(_, (_, layer))| sign * layer).fold(f64::MAX, f64::min);
    let top = nodes.iter().map(|(_, (across, _))| *across).fold(f64::MAX, f64::min);
    let corner = |(node, (across, layer)): &(usize, (f64, f64))| {
        (*node, (sign * layer - left).round() as i32, (across - top).round() as i32)
    };
    nodes.iter().map(corner).collect()
}

fn extent(placed: &[(usize, i32, i32)]) -> (i32, i32) {
    let right = placed.iter().map(|(_, x, _)| x + NODE_WIDTH).max().unwrap_or(0);
    let bottom = placed.iter().map(|(_, _, y)| y + NODE_HEIGHT).max().unwrap_or(0);
    (right, bottom)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topology(nodes: usize, edges: &[(usize, usize)]) -> Topology {
        Topology { nodes: (0..nodes).map(|n| format!("s{n}")).collect(), edges: edges.to_vec() }
    }

    fn overlaps(layout: &Layout) -> usize {
        let corners = &layout.corners;
        let touch = |a: &(i32, i32), b: &(i32, i32)| (a.0 - b.0).abs() < NODE_WIDTH && (a.1 - b.1).abs() < NODE_HEIGHT;
        (0..corners.len()).map(|i| corners[..i].iter().filter(|b| touch(&corners[i], b)).count()).sum()
    }

    #[test]
    fn a_chain_runs_from_left_to_right() {
        let layout = Layout::of(&topology(4, &[(0, 1), (1, 2), (2, 3)]));
        assert!(layout.corners.is_sorted_by_key(|corner| corner.0), "{layout:?}");
        assert_eq!(overlaps(&layout), 0);
        assert!(
            layout.corners.iter().all(|(x, y)| *x + NODE_WIDTH <= layout.width && *y + NODE_HEIGHT <= layout.height)
        );
    }

    #[test]
    fn nothing_overlaps_in_any_shape() {
        let star: Vec<(usize, usize)> = (1..20).map(|n| (0, n)).collect();
        let cycle = [(0, 1), (1, 2), (2, 0), (2, 2), (0, 3)];
        let layered: Vec<(usize, usize)> = (0..90).flat_map(|n| [(n, n + 7), (n, (n * 3 + 11) % 100)]).collect();
        for (nodes, edges) in
            [(0, &[][..]), (1, &[]), (3, &[]), (20, &star), (4, &cycle), (2, &[(0, 0)]), (100, &layered)]
        {
            let layout = Layout::of(&topology(nodes, edges));
            assert_eq!(overlaps(&layout), 0, "{nodes} nodes");
            assert_eq!(layout, Layout::of(&topology(nodes, edges)), "the same every time");
        }
    }
}
