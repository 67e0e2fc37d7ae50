"builtin.module"() <{sym_name = "kernel"}> ({
  "stable_mosaic.func.func"() ({
  ^bb0(%arg2: i32, %arg3: memref<${records}xi32, #tpu.memory_space<smem>>, %arg4: memref<256x128xf32, #tpu.memory_space<vmem>>, %arg5: memref<${array_rows}x128xf32, #tpu.memory_space<any>>, %arg6: memref<${array_rows}x128xf32, #tpu.memory_space<any>>, %arg7: memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>):
    %2 = "stable_mosaic.arith.constant"() {value = 256 : i32} : () -> i32
    %3 = "stable_mosaic.arith.muli"(%arg2, %2) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
    %4 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
    %5 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
    %6 = "stable_mosaic.arith.constant"() {value = 32 : i32} : () -> i32
    %7 = "stable_mosaic.arith.addi"(%5, %6) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
    %8 = "stable_mosaic.arith.constant"() {value = 1 : i32} : () -> i32
    %9 = "stable_mosaic.scf.for"(%5, %7, %8, %4) ({
    ^bb0(%arg8: i32, %arg9: i32):
      %128 = "stable_mosaic.arith.constant"() {value = 8 : i32} : () -> i32
      %129 = "stable_mosaic.arith.muli"(%arg8, %128) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
      %130 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %131 = "stable_mosaic.arith.addi"(%129, %130) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
      %132 = "stable_mosaic.arith.addi"(%3, %131) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
      %133 = "stable_mosaic.arith.index_cast"(%132) : (i32) -> index
      %134 = "stable_mosaic.memref.load"(%arg3, %133) : (memref<${records}xi32, #tpu.memory_space<smem>>, index) -> i32
      %135 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %136 = "stable_mosaic.arith.cmpi"(%134, %135) {predicate = 5 : i64} : (i32, i32) -> i1
      %137 = "stable_mosaic.arith.extui"(%136) : (i1) -> i32
      %138 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %139 = "stable_mosaic.arith.cmpi"(%137, %138) {predicate = 1 : i64} : (i32, i32) -> i1
      "stable_mosaic.scf.if"(%139) ({
        %300 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %301 = "stable_mosaic.tpu.memref_slice"(%arg4, %131, %300) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<256x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>
        %302 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %303 = "stable_mosaic.tpu.memref_slice"(%arg6, %134, %302) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<${array_rows}x128xf32, #tpu.memory_space<any>>, i32, i32) -> memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>
        "stable_mosaic.tpu.enqueue_dma"(%301, %303, %arg7) {operandSegmentSizes = array<i32: 1, 0, 1, 1, 0, 0>, priority = 0 : i32} : (memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>, memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>, memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>) -> ()
        "stable_mosaic.scf.yield"() : () -> ()
      }, {
        "stable_mosaic.scf.yield"() : () -> ()
      }) : (i1) -> ()
      %140 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %141 = "stable_mosaic.arith.cmpi"(%134, %140) {predicate = 5 : i64} : (i32, i32) -> i1
      %142 = "stable_mosaic.arith.constant"() {value = 1 : i32} : () -> i32
      %143 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %144 = "stable_mosaic.arith.select"(%141, %142, %143) : (i1, i32, i32) -> i32
      %145 = "stable_mosaic.arith.addi"(%arg9, %144) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
      %146 = "stable_mosaic.arith.constant"() {value = 8 : i32} : () -> i32
      %147 = "stable_mosaic.arith.muli"(%arg8, %146) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
      %148 = "stable_mosaic.arith.constant"() {value = 1 : i32} : () -> i32
      %149 = "stable_mosaic.arith.addi"(%147, %148) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
      %150 = "stable_mosaic.arith.addi"(%3, %149) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
      %151 = "stable_mosaic.arith.index_cast"(%150) : (i32) -> index
      %152 = "stable_mosaic.memref.load"(%arg3, %151) : (memref<${records}xi32, #tpu.memory_space<smem>>, index) -> i32
      %153 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %154 = "stable_mosaic.arith.cmpi"(%152, %153) {predicate = 5 : i64} : (i32, i32) -> i1
      %155 = "stable_mosaic.arith.extui"(%154) : (i1) -> i32
      %156 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %157 = "stable_mosaic.arith.cmpi"(%155, %156) {predicate = 1 : i64} : (i32, i32) -> i1
      "stable_mosaic.scf.if"(%157) ({
        %296 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %297 = "stable_mosaic.tpu.memref_slice"(%arg4, %149, %296) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<256x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>
        %298 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %299 = "stable_mosaic.tpu.memref_slice"(%arg6, %152, %298) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<${array_rows}x128xf32, #tpu.memory_space<any>>, i32, i32) -> memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>
        "stable_mosaic.tpu.enqueue_dma"(%297, %299, %arg7) {operandSegmentSizes = array<i32: 1, 0, 1, 1, 0, 0>, priority = 0 : i32} : (memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>, memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>, memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>) -> ()
        "stable_mosaic.scf.yield"() : () -> ()
      }, {
        "stable_mosaic.scf.yield"() : () -> ()
      }) : (i1) -> ()
      %158 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %159 = "stable_mosaic.arith.cmpi"(%152, %158) {predicate = 5 : i64} : (i32, i32) -> i1
      %160 = "stable_mosaic.arith.constant"() {value = 1 : i32} : () -> i32
      %161 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %162 = "stable_mosaic.arith.select"(%159, %160, %161) : (i1, i32, i32) -> i32
      %163 = "stable_mosaic.arith.addi"(%145, %162) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
      %164 = "stable_mosaic.arith.constant"() {value = 8 : i32} : () -> i32
      %165 = "stable_mosaic.arith.muli"(%arg8, %164) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
      %166 = "stable_mosaic.arith.constant"() {value = 2 : i32} : () -> i32
      %167 = "stable_mosaic.arith.addi"(%165, %166) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
      %168 = "stable_mosaic.arith.addi"(%3, %167) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
      %169 = "stable_mosaic.arith.index_cast"(%168) : (i32) -> index
      %170 = "stable_mosaic.memref.load"(%arg3, %169) : (memref<${records}xi32, #tpu.memory_space<smem>>, index) -> i32
      %171 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %172 = "stable_mosaic.arith.cmpi"(%170, %171) {predicate = 5 : i64} : (i32, i32) -> i1
      %173 = "stable_mosaic.arith.extui"(%172) : (i1) -> i32
      %174 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %175 = "stable_mosaic.arith.cmpi"(%173, %174) {predicate = 1 : i64} : (i32, i32) -> i1
      "stable_mosaic.scf.if"(%175) ({
        %292 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %293 = "stable_mosaic.tpu.memref_slice"(%arg4, %167, %292) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<256x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>
        %294 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %295 = "stable_mosaic.tpu.memref_slice"(%arg6, %170, %294) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<${array_rows}x128xf32, #tpu.memory_space<any>>, i32, i32) -> memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>
        "stable_mosaic.tpu.enqueue_dma"(%293, %295, %arg7) {operandSegmentSizes = array<i32: 1, 0, 1, 1, 0, 0>, priority = 0 : i32} : (memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>, memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>, memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>) -> ()
        "stable_mosaic.scf.yield"() : () -> ()
      }, {
        "stable_mosaic.scf.yield"() : () -> ()
      }) : (i1) -> ()
      %176 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %177 = "stable_mosaic.arith.cmpi"(%170, %176) {predicate = 5 : i64} : (i32, i32) -> i1
      %178 = "stable_mosaic.arith.constant"() {value = 1 : i32} : () -> i32
      %179 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %180 = "stable_mosaic.arith.select"(%177, %178, %179) : (i1, i32, i32) -> i32
      %181 = "stable_mosaic.arith.addi"(%163, %180) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
      %182 = "stable_mosaic.arith.constant"() {value = 8 : i32} : () -> i32
      %183 = "stable_mosaic.arith.muli"(%arg8, %182) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
      %184 = "stable_mosaic.arith.constant"() {value = 3 : i32} : () -> i32
      %185 = "stable_mosaic.arith.addi"(%183, %184) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
      %186 = "stable_mosaic.arith.addi"(%3, %185) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
      %187 = "stable_mosaic.arith.index_cast"(%186) : (i32) -> index
      %188 = "stable_mosaic.memref.load"(%arg3, %187) : (memref<${records}xi32, #tpu.memory_space<smem>>, index) -> i32
      %189 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %190 = "stable_mosaic.arith.cmpi"(%188, %189) {predicate = 5 : i64} : (i32, i32) -> i1
      %191 = "stable_mosaic.arith.extui"(%190) : (i1) -> i32
      %192 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %193 = "stable_mosaic.arith.cmpi"(%191, %192) {predicate = 1 : i64} : (i32, i32) -> i1
      "stable_mosaic.scf.if"(%193) ({
        %288 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %289 = "stable_mosaic.tpu.memref_slice"(%arg4, %185, %288) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<256x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>
        %290 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %291 = "stable_mosaic.tpu.memref_slice"(%arg6, %188, %290) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<${array_rows}x128xf32, #tpu.memory_space<any>>, i32, i32) -> memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>
        "stable_mosaic.tpu.enqueue_dma"(%289, %291, %arg7) {operandSegmentSizes = array<i32: 1, 0, 1, 1, 0, 0>, priority = 0 : i32} : (memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>, memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>, memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>) -> ()
        "stable_mosaic.scf.yield"() : () -> ()
      }, {
        "stable_mosaic.scf.yield"() : () -> ()
      }) : (i1) -> ()
      %194 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %195 = "stable_mosaic.arith.cmpi"(%188, %194) {predicate = 5 : i64} : (i32, i32) -> i1
      %196 = "stable_mosaic.arith.constant"() {value = 1 : i32} : () -> i32
      %197 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %198 = "stable_mosaic.arith.select"(%195, %196, %197) : (i1, i32, i32) -> i32
      %199 = "stable_mosaic.arith.addi"(%181, %198) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
      %200 = "stable_mosaic.arith.constant"() {value = 8 : i32} : () -> i32
      %201 = "stable_mosaic.arith.muli"(%arg8, %200) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
      %202 = "stable_mosaic.arith.constant"() {value = 4 : i32} : () -> i32
      %203 = "stable_mosaic.arith.addi"(%201, %202) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
      %204 = "stable_mosaic.arith.addi"(%3, %203) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
      %205 = "stable_mosaic.arith.index_cast"(%204) : (i32) -> index
      %206 = "stable_mosaic.memref.load"(%arg3, %205) : (memref<${records}xi32, #tpu.memory_space<smem>>, index) -> i32
      %207 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %208 = "stable_mosaic.arith.cmpi"(%206, %207) {predicate = 5 : i64} : (i32, i32) -> i1
      %209 = "stable_mosaic.arith.extui"(%208) : (i1) -> i32
      %210 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %211 = "stable_mosaic.arith.cmpi"(%209, %210) {predicate = 1 : i64} : (i32, i32) -> i1
      "stable_mosaic.scf.if"(%211) ({
        %284 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %285 = "stable_mosaic.tpu.memref_slice"(%arg4, %203, %284) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<256x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>
        %286 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %287 = "stable_mosaic.tpu.memref_slice"(%arg6, %206, %286) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<${array_rows}x128xf32, #tpu.memory_space<any>>, i32, i32) -> memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>
        "stable_mosaic.tpu.enqueue_dma"(%285, %287, %arg7) {operandSegmentSizes = array<i32: 1, 0, 1, 1, 0, 0>, priority = 0 : i32} : (memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>, memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>, memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>) -> ()
        "stable_mosaic.scf.yield"() : () -> ()
      }, {
        "stable_mosaic.scf.yield"() : () -> ()
      }) : (i1) -> ()
      %212 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %213 = "stable_mosaic.arith.cmpi"(%206, %212) {predicate = 5 : i64} : (i32, i32) -> i1
      %214 = "stable_mosaic.arith.constant"() {value = 1 : i32} : () -> i32
      %215 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %216 = "stable_mosaic.arith.select"(%213, %214, %215) : (i1, i32, i32) -> i32
      %217 = "stable_mosaic.arith.addi"(%199, %216) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
      %218 = "stable_mosaic.arith.constant"() {value = 8 : i32} : () -> i32
      %219 = "stable_mosaic.arith.muli"(%arg8, %218) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
      %220 = "stable_mosaic.arith.constant"() {value = 5 : i32} : () -> i32
      %221 = "stable_mosaic.arith.addi"(%219, %220) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
      %222 = "stable_mosaic.arith.addi"(%3, %221) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
      %223 = "stable_mosaic.arith.index_cast"(%222) : (i32) -> index
      %224 = "stable_mosaic.memref.load"(%arg3, %223) : (memref<${records}xi32, #tpu.memory_space<smem>>, index) -> i32
      %225 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %226 = "stable_mosaic.arith.cmpi"(%224, %225) {predicate = 5 : i64} : (i32, i32) -> i1
      %227 = "stable_mosaic.arith.extui"(%226) : (i1) -> i32
      %228 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %229 = "stable_mosaic.arith.cmpi"(%227, %228) {predicate = 1 : i64} : (i32, i32) -> i1
      "stable_mosaic.scf.if"(%229) ({
        %280 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %281 = "stable_mosaic.tpu.memref_slice"(%arg4, %221, %280) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<256x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>
        %282 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %283 = "stable_mosaic.tpu.memref_slice"(%arg6, %224, %282) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<${array_rows}x128xf32, #tpu.memory_space<any>>, i32, i32) -> memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>
        "stable_mosaic.tpu.enqueue_dma"(%281, %283, %arg7) {operandSegmentSizes = array<i32: 1, 0, 1, 1, 0, 0>, priority = 0 : i32} : (memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>, memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>, memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>) -> ()
        "stable_mosaic.scf.yield"() : () -> ()
      }, {
        "stable_mosaic.scf.yield"() : () -> ()
      }) : (i1) -> ()
      %230 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %231 = "stable_mosaic.arith.cmpi"(%224, %230) {predicate = 5 : i64} : (i32, i32) -> i1
      %232 = "stable_mosaic.arith.constant"() {value = 1 : i32} : () -> i32
      %233 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %234 = "stable_mosaic.arith.select"(%231, %232, %233) : (i1, i32, i32) -> i32
      %235 = "stable_mosaic.arith.addi"(%217, %234) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
      %236 = "stable_mosaic.arith.constant"() {value = 8 : i32} : () -> i32
      %237 = "stable_mosaic.arith.muli"(%arg8, %236) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
      %238 = "stable_mosaic.arith.constant"() {value = 6 : i32} : () -> i32
      %239 = "stable_mosaic.arith.addi"(%237, %238) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
      %240 = "stable_mosaic.arith.addi"(%3, %239) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
      %241 = "stable_mosaic.arith.index_cast"(%240) : (i32) -> index
      %242 = "stable_mosaic.memref.load"(%arg3, %241) : (memref<${records}xi32, #tpu.memory_space<smem>>, index) -> i32
      %243 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %244 = "stable_mosaic.arith.cmpi"(%242, %243) {predicate = 5 : i64} : (i32, i32) -> i1
      %245 = "stable_mosaic.arith.extui"(%244) : (i1) -> i32
      %246 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %247 = "stable_mosaic.arith.cmpi"(%245, %246) {predicate = 1 : i64} : (i32, i32) -> i1
      "stable_mosaic.scf.if"(%247) ({
        %276 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %277 = "stable_mosaic.tpu.memref_slice"(%arg4, %239, %276) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<256x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>
        %278 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %279 = "stable_mosaic.tpu.memref_slice"(%arg6, %242, %278) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<${array_rows}x128xf32, #tpu.memory_space<any>>, i32, i32) -> memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>
        "stable_mosaic.tpu.enqueue_dma"(%277, %279, %arg7) {operandSegmentSizes = array<i32: 1, 0, 1, 1, 0, 0>, priority = 0 : i32} : (memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>, memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>, memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>) -> ()
        "stable_mosaic.scf.yield"() : () -> ()
      }, {
        "stable_mosaic.scf.yield"() : () -> ()
      }) : (i1) -> ()
      %248 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %249 = "stable_mosaic.arith.cmpi"(%242, %248) {predicate = 5 : i64} : (i32, i32) -> i1
      %250 = "stable_mosaic.arith.constant"() {value = 1 : i32} : () -> i32
      %251 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %252 = "stable_mosaic.arith.select"(%249, %250, %251) : (i1, i32, i32) -> i32
      %253 = "stable_mosaic.arith.addi"(%235, %252) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
      %254 = "stable_mosaic.arith.constant"() {value = 8 : i32} : () -> i32
      %255 = "stable_mosaic.arith.muli"(%arg8, %254) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
      %256 = "stable_mosaic.arith.constant"() {value = 7 : i32} : () -> i32
      %257 = "stable_mosaic.arith.addi"(%255, %256) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
      %258 = "stable_mosaic.arith.addi"(%3, %257) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
      %259 = "stable_mosaic.arith.index_cast"(%258) : (i32) -> index
      %260 = "stable_mosaic.memref.load"(%arg3, %259) : (memref<${records}xi32, #tpu.memory_space<smem>>, index) -> i32
      %261 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %262 = "stable_mosaic.arith.cmpi"(%260, %261) {predicate = 5 : i64} : (i32, i32) -> i1
      %263 = "stable_mosaic.arith.extui"(%262) : (i1) -> i32
      %264 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %265 = "stable_mosaic.arith.cmpi"(%263, %264) {predicate = 1 : i64} : (i32, i32) -> i1
      "stable_mosaic.scf.if"(%265) ({
        %272 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %273 = "stable_mosaic.tpu.memref_slice"(%arg4, %257, %272) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<256x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>
        %274 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
        %275 = "stable_mosaic.tpu.memref_slice"(%arg6, %260, %274) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<${array_rows}x128xf32, #tpu.memory_space<any>>, i32, i32) -> memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>
        "stable_mosaic.tpu.enqueue_dma"(%273, %275, %arg7) {operandSegmentSizes = array<i32: 1, 0, 1, 1, 0, 0>, priority = 0 : i32} : (memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<vmem>>, memref<1x128xf32, strided<[128, 1], offset: ?>, #tpu.memory_space<any>>, memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>) -> ()
        "stable_mosaic.scf.yield"() : () -> ()
      }, {
        "stable_mosaic.scf.yield"() : () -> ()
      }) : (i1) -> ()
      %266 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %267 = "stable_mosaic.arith.cmpi"(%260, %266) {predicate = 5 : i64} : (i32, i32) -> i1
      %268 = "stable_mosaic.arith.constant"() {value = 1 : i32} : () -> i32
      %269 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %270 = "stable_mosaic.arith.select"(%267, %268, %269) : (i1, i32, i32) -> i32
      %271 = "stable_mosaic.arith.addi"(%253, %270) {overflowFlags = #arith.overflow<none>} : (i32, i32) -> i32
      "stable_mosaic.scf.yield"(%271) : (i32) -> ()
    }) : (i32, i32, i32, i32) -> i32
    %10 = "stable_mosaic.arith.constant"() {value = 32 : i32} : () -> i32
    %11 = "stable_mosaic.arith.constant"() {value = 256 : i32} : () -> i32
    %12 = "stable_mosaic.arith.andi"(%9, %11) : (i32, i32) -> i32
    %13 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
    %14 = "stable_mosaic.arith.cmpi"(%12, %13) {predicate = 1 : i64} : (i32, i32) -> i1
    %15 = "stable_mosaic.arith.extui"(%14) : (i1) -> i32
    %16 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
    %17 = "stable_mosaic.arith.cmpi"(%15, %16) {predicate = 1 : i64} : (i32, i32) -> i1
    "stable_mosaic.scf.if"(%17) ({
      %122 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %123 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %124 = "stable_mosaic.tpu.memref_slice"(%arg4, %122, %123) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<256x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<256x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>
      %125 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %126 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %127 = "stable_mosaic.tpu.memref_slice"(%arg4, %125, %126) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<256x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<256x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>
      "stable_mosaic.tpu.wait_dma2"(%arg7, %124, %127) {operandSegmentSizes = array<i32: 1, 1, 1, 0, 0>, strict_ordering = false} : (memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>, memref<256x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>, memref<256x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>) -> ()
      "stable_mosaic.scf.yield"() : () -> ()
    }, {
      "stable_mosaic.scf.yield"() : () -> ()
    }) : (i1) -> ()
    %18 = "stable_mosaic.arith.constant"() {value = 128 : i32} : () -> i32
    %19 = "stable_mosaic.arith.andi"(%9, %18) : (i32, i32) -> i32
    %20 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
    %21 = "stable_mosaic.arith.cmpi"(%19, %20) {predicate = 1 : i64} : (i32, i32) -> i1
    %22 = "stable_mosaic.arith.extui"(%21) : (i1) -> i32
    %23 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
    %24 = "stable_mosaic.arith.cmpi"(%22, %23) {predicate = 1 : i64} : (i32, i32) -> i1
    "stable_mosaic.scf.if"(%24) ({
      %116 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %117 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %118 = "stable_mosaic.tpu.memref_slice"(%arg4, %116, %117) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<256x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<128x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>
      %119 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %120 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %121 = "stable_mosaic.tpu.memref_slice"(%arg4, %119, %120) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<256x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<128x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>
      "stable_mosaic.tpu.wait_dma2"(%arg7, %118, %121) {operandSegmentSizes = array<i32: 1, 1, 1, 0, 0>, strict_ordering = false} : (memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>, memref<128x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>, memref<128x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>) -> ()
      "stable_mosaic.scf.yield"() : () -> ()
    }, {
      "stable_mosaic.scf.yield"() : () -> ()
    }) : (i1) -> ()
    %25 = "stable_mosaic.arith.constant"() {value = 64 : i32} : () -> i32
    %26 = "stable_mosaic.arith.andi"(%9, %25) : (i32, i32) -> i32
    %27 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
    %28 = "stable_mosaic.arith.cmpi"(%26, %27) {predicate = 1 : i64} : (i32, i32) -> i1
    %29 = "stable_mosaic.arith.extui"(%28) : (i1) -> i32
    %30 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
    %31 = "stable_mosaic.arith.cmpi"(%29, %30) {predicate = 1 : i64} : (i32, i32) -> i1
    "stable_mosaic.scf.if"(%31) ({
      %110 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %111 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %112 = "stable_mosaic.tpu.memref_slice"(%arg4, %110, %111) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<256x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<64x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>
      %113 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %114 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %115 = "stable_mosaic.tpu.memref_slice"(%arg4, %113, %114) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<256x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<64x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>
      "stable_mosaic.tpu.wait_dma2"(%arg7, %112, %115) {operandSegmentSizes = array<i32: 1, 1, 1, 0, 0>, strict_ordering = false} : (memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>, memref<64x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>, memref<64x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>) -> ()
      "stable_mosaic.scf.yield"() : () -> ()
    }, {
      "stable_mosaic.scf.yield"() : () -> ()
    }) : (i1) -> ()
    %32 = "stable_mosaic.arith.constant"() {value = 32 : i32} : () -> i32
    %33 = "stable_mosaic.arith.andi"(%9, %32) : (i32, i32) -> i32
    %34 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
    %35 = "stable_mosaic.arith.cmpi"(%33, %34) {predicate = 1 : i64} : (i32, i32) -> i1
    %36 = "stable_mosaic.arith.extui"(%35) : (i1) -> i32
    %37 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
    %38 = "stable_mosaic.arith.cmpi"(%36, %37) {predicate = 1 : i64} : (i32, i32) -> i1
    "stable_mosaic.scf.if"(%38) ({
      %104 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %105 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %106 = "stable_mosaic.tpu.memref_slice"(%arg4, %104, %105) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<256x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<32x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>
      %107 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %108 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %109 = "stable_mosaic.tpu.memref_slice"(%arg4, %107, %108) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<256x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<32x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>
      "stable_mosaic.tpu.wait_dma2"(%arg7, %106, %109) {operandSegmentSizes = array<i32: 1, 1, 1, 0, 0>, strict_ordering = false} : (memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>, memref<32x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>, memref<32x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>) -> ()
      "stable_mosaic.scf.yield"() : () -> ()
    }, {
      "stable_mosaic.scf.yield"() : () -> ()
    }) : (i1) -> ()
    %39 = "stable_mosaic.arith.constant"() {value = 16 : i32} : () -> i32
    %40 = "stable_mosaic.arith.andi"(%9, %39) : (i32, i32) -> i32
    %41 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
    %42 = "stable_mosaic.arith.cmpi"(%40, %41) {predicate = 1 : i64} : (i32, i32) -> i1
    %43 = "stable_mosaic.arith.extui"(%42) : (i1) -> i32
    %44 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
    %45 = "stable_mosaic.arith.cmpi"(%43, %44) {predicate = 1 : i64} : (i32, i32) -> i1
    "stable_mosaic.scf.if"(%45) ({
      %98 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %99 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %100 = "stable_mosaic.tpu.memref_slice"(%arg4, %98, %99) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<256x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<16x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>
      %101 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %102 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %103 = "stable_mosaic.tpu.memref_slice"(%arg4, %101, %102) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<256x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<16x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>
      "stable_mosaic.tpu.wait_dma2"(%arg7, %100, %103) {operandSegmentSizes = array<i32: 1, 1, 1, 0, 0>, strict_ordering = false} : (memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>, memref<16x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>, memref<16x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>) -> ()
      "stable_mosaic.scf.yield"() : () -> ()
    }, {
      "stable_mosaic.scf.yield"() : () -> ()
    }) : (i1) -> ()
    %46 = "stable_mosaic.arith.constant"() {value = 8 : i32} : () -> i32
    %47 = "stable_mosaic.arith.andi"(%9, %46) : (i32, i32) -> i32
    %48 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
    %49 = "stable_mosaic.arith.cmpi"(%47, %48) {predicate = 1 : i64} : (i32, i32) -> i1
    %50 = "stable_mosaic.arith.extui"(%49) : (i1) -> i32
    %51 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
    %52 = "stable_mosaic.arith.cmpi"(%50, %51) {predicate = 1 : i64} : (i32, i32) -> i1
    "stable_mosaic.scf.if"(%52) ({
      %92 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %93 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %94 = "stable_mosaic.tpu.memref_slice"(%arg4, %92, %93) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<256x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<8x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>
      %95 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %96 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %97 = "stable_mosaic.tpu.memref_slice"(%arg4, %95, %96) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<256x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<8x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>
      "stable_mosaic.tpu.wait_dma2"(%arg7, %94, %97) {operandSegmentSizes = array<i32: 1, 1, 1, 0, 0>, strict_ordering = false} : (memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>, memref<8x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>, memref<8x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>) -> ()
      "stable_mosaic.scf.yield"() : () -> ()
    }, {
      "stable_mosaic.scf.yield"() : () -> ()
    }) : (i1) -> ()
    %53 = "stable_mosaic.arith.constant"() {value = 4 : i32} : () -> i32
    %54 = "stable_mosaic.arith.andi"(%9, %53) : (i32, i32) -> i32
    %55 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
    %56 = "stable_mosaic.arith.cmpi"(%54, %55) {predicate = 1 : i64} : (i32, i32) -> i1
    %57 = "stable_mosaic.arith.extui"(%56) : (i1) -> i32
    %58 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
    %59 = "stable_mosaic.arith.cmpi"(%57, %58) {predicate = 1 : i64} : (i32, i32) -> i1
    "stable_mosaic.scf.if"(%59) ({
      %86 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %87 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %88 = "stable_mosaic.tpu.memref_slice"(%arg4, %86, %87) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<256x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<4x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>
      %89 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %90 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %91 = "stable_mosaic.tpu.memref_slice"(%arg4, %89, %90) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<256x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<4x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>
      "stable_mosaic.tpu.wait_dma2"(%arg7, %88, %91) {operandSegmentSizes = array<i32: 1, 1, 1, 0, 0>, strict_ordering = false} : (memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>, memref<4x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>, memref<4x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>) -> ()
      "stable_mosaic.scf.yield"() : () -> ()
    }, {
      "stable_mosaic.scf.yield"() : () -> ()
    }) : (i1) -> ()
    %60 = "stable_mosaic.arith.constant"() {value = 2 : i32} : () -> i32
    %61 = "stable_mosaic.arith.andi"(%9, %60) : (i32, i32) -> i32
    %62 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
    %63 = "stable_mosaic.arith.cmpi"(%61, %62) {predicate = 1 : i64} : (i32, i32) -> i1
    %64 = "stable_mosaic.arith.extui"(%63) : (i1) -> i32
    %65 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
    %66 = "stable_mosaic.arith.cmpi"(%64, %65) {predicate = 1 : i64} : (i32, i32) -> i1
    "stable_mosaic.scf.if"(%66) ({
      %80 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %81 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %82 = "stable_mosaic.tpu.memref_slice"(%arg4, %80, %81) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<256x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<2x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>
      %83 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %84 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %85 = "stable_mosaic.tpu.memref_slice"(%arg4, %83, %84) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<256x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<2x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>
      "stable_mosaic.tpu.wait_dma2"(%arg7, %82, %85) {operandSegmentSizes = array<i32: 1, 1, 1, 0, 0>, strict_ordering = false} : (memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>, memref<2x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>, memref<2x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>) -> ()
      "stable_mosaic.scf.yield"() : () -> ()
    }, {
      "stable_mosaic.scf.yield"() : () -> ()
    }) : (i1) -> ()
    %67 = "stable_mosaic.arith.constant"() {value = 1 : i32} : () -> i32
    %68 = "stable_mosaic.arith.andi"(%9, %67) : (i32, i32) -> i32
    %69 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
    %70 = "stable_mosaic.arith.cmpi"(%68, %69) {predicate = 1 : i64} : (i32, i32) -> i1
    %71 = "stable_mosaic.arith.extui"(%70) : (i1) -> i32
    %72 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
    %73 = "stable_mosaic.arith.cmpi"(%71, %72) {predicate = 1 : i64} : (i32, i32) -> i1
    "stable_mosaic.scf.if"(%73) ({
      %74 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %75 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %76 = "stable_mosaic.tpu.memref_slice"(%arg4, %74, %75) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<256x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<1x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>
      %77 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %78 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
      %79 = "stable_mosaic.tpu.memref_slice"(%arg4, %77, %78) {operandSegmentSizes = array<i32: 1, 2, 0>} : (memref<256x128xf32, #tpu.memory_space<vmem>>, i32, i32) -> memref<1x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>
      "stable_mosaic.tpu.wait_dma2"(%arg7, %76, %79) {operandSegmentSizes = array<i32: 1, 1, 1, 0, 0>, strict_ordering = false} : (memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>, memref<1x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>, memref<1x128xf32, strided<[128, 1]>, #tpu.memory_space<vmem>>) -> ()
      "stable_mosaic.scf.yield"() : () -> ()
    }, {
      "stable_mosaic.scf.yield"() : () -> ()
    }) : (i1) -> ()
    "stable_mosaic.func.return"() : () -> ()
  }) {dimension_semantics = [#tpu.dimension_semantics<parallel>], function_type = (i32, memref<${records}xi32, #tpu.memory_space<smem>>, memref<256x128xf32, #tpu.memory_space<vmem>>, memref<${array_rows}x128xf32, #tpu.memory_space<any>>, memref<${array_rows}x128xf32, #tpu.memory_space<any>>, memref<!tpu.dma_semaphore, #tpu.memory_space<semaphore_mem>>) -> (), iteration_bounds = array<i64: ${blocks}>, scalar_prefetch = 1 : i64, scratch_operands = 1 : i64, sym_name = "main", window_params = [{transform_indices = @transform_0, window_bounds = array<i64: 256, 128>}, {}, {}]} : () -> ()
  "stable_mosaic.func.func"() ({
  ^bb0(%arg0: i32, %arg1: memref<${records}xi32, #tpu.memory_space<smem>>):
    %0 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
    %1 = "stable_mosaic.arith.constant"() {value = 0 : i32} : () -> i32
    "stable_mosaic.func.return"(%arg0, %0) : (i32, i32) -> ()
  }) {function_type = (i32, memref<${records}xi32, #tpu.memory_space<smem>>) -> (i32, i32), sym_name = "transform_0"} : () -> ()
}) {stable_mosaic.version = 7 : i64} : () -> ()
