// A prefix tree (Sklansky) over generate and propagate: fast, large.
(* techmap_celltype = "rtlgen_sum" *)
module rtlgen_sum_prefix #(parameter WIDTH = 1)
  (input [WIDTH-1:0] a, b, input ci, output [WIDTH-1:0] s, co);
  localparam LEVELS = WIDTH > 1 ? $clog2(WIDTH) : 1;
  // Level after level, WIDTH bits each.
  wire [(LEVELS+1)*WIDTH-1:0] g, p;
  assign g[WIDTH-1:0] = (a & b) | ({{(WIDTH){1'b0}}, ci} & (a ^ b));
  assign p[WIDTH-1:0] = a ^ b;
  genvar i, level;
  generate for (level = 0; level < LEVELS; level = level + 1) begin : levels
    for (i = 0; i < WIDTH; i = i + 1) begin : bits
      if ((i >> level) & 1) begin : joined
        localparam FROM = ((i >> level) << level) - 1;
        assign g[(level+1)*WIDTH+i] = g[level*WIDTH+i] | (p[level*WIDTH+i] & g[level*WIDTH+FROM]);
        assign p[(level+1)*WIDTH+i] = p[level*WIDTH+i] & p[level*WIDTH+FROM];
      end else begin : kept
        assign g[(level+1)*WIDTH+i] = g[level*WIDTH+i];
        assign p[(level+1)*WIDTH+i] = p[level*WIDTH+i];
      end
    end
  end endgenerate
  assign co = g[LEVELS*WIDTH +: WIDTH];
  wire [WIDTH:0] k = {co, ci};
  assign s = a ^ b ^ k[WIDTH-1:0];
endmodule

(* techmap_celltype = "rtlgen_step_carries" *)
module rtlgen_step_prefix #(parameter WIDTH = 1)
  (input [WIDTH-1:0] a, input up, ci, output [WIDTH:0] k);
  localparam LEVELS = WIDTH > 1 ? $clog2(WIDTH) : 1;
  // Runs of bits that equal `up`, by a prefix tree; a broken run stops the step.
  wire [(LEVELS+1)*WIDTH-1:0] run;
  assign run[WIDTH-1:0] = a ^ {WIDTH{~up}};
  genvar i, level;
  generate for (level = 0; level < LEVELS; level = level + 1) begin : levels
    for (i = 0; i < WIDTH; i = i + 1) begin : bits
      if ((i >> level) & 1)
        assign run[(level+1)*WIDTH+i] =
          run[level*WIDTH+i] & run[level*WIDTH+((i >> level) << level)-1];
      else
        assign run[(level+1)*WIDTH+i] = run[level*WIDTH+i];
    end
  end endgenerate
  assign k[0] = ci;
  generate for (i = 0; i < WIDTH; i = i + 1) begin : carries
    assign k[i+1] = up ? ci & run[LEVELS*WIDTH+i] : ci | ~run[LEVELS*WIDTH+i];
  end endgenerate
endmodule

(* techmap_celltype = "rtlgen_step" *)
module rtlgen_step_prefix_sum #(parameter WIDTH = 1)
  (input [WIDTH-1:0] a, input up, ci, output [WIDTH-1:0] s);
  wire [WIDTH:0] k;
  rtlgen_step_carries #(.WIDTH(WIDTH)) carries (.a(a), .up(up), .ci(ci), .k(k));
  assign s = a ^ {WIDTH{~up}} ^ k[WIDTH-1:0];
endmodule
